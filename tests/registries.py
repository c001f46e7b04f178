"""A registry in a folder, and rows for it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

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


@contextmanager
def failing(code: int, *words: str, times: int = 1 << 30) -> Iterator[list[str]]:
    """Statements with all of these words fail by an SQLite error of that code, so many of them.

    The list has those that failed.
    """
    failed: list[str] = []

    def fail(_: Any, __: Any, statement: str, *more: Any) -> None:
        if len(failed) < times and all(word in statement for word in words):
            failed.append(statement)
            error = sqlite3.OperationalError("a fault of the disk")
            error.sqlite_errorcode = code
            raise error

    event.listen(Engine, "before_cursor_execute", fail)
    try:
        yield failed
    finally:
        event.remove(Engine, "before_cursor_execute", fail)
