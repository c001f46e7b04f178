"""A registry in a folder, and rows for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from batchyard.service.domain.records import Status
from batchyard.service.registry.dialects.sqlite import SqliteDatabase


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SqliteDatabase]:
    database = await asyncio.to_thread(SqliteDatabase, f"sqlite:///{folder / 'registry.sqlite3'}")
    try:
        yield database
    finally:
        await asyncio.to_thread(database.close)


def a_file(number: int, **changes: Any) -> dict[str, Any]:
    row = {"id": f"file-{number}", "provider": "local", "purpose": "batch", "filename": "a.jsonl"}
    return {**row, "bytes": 1, "created_at": 1, "status": "processed", **changes}


def a_batch(number: int, input_file_id: str = "file-0", **changes: Any) -> dict[str, Any]:
    row = {"id": f"batch_{number}", "provider": "local", "endpoint": "/v1/responses", "input_file_id": input_file_id}
    rest = {"completion_window": "24h", "status": Status.VALIDATING, "created_at": 1, "expires_at": 9}
    return {**row, **rest, "metadata": {}, "output_seconds": 5, **changes}
