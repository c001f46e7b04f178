"""A batch goes where its input file is, unless its caller says where."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from batchyard.common.metrics import Metrics
from batchyard.service.auth import current_tenant
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.mutations import Mutations
from batchyard.service.providers.base import NewBatch, Upload
from batchyard.service.registry.database import Database
from batchyard.service.registry.records import BatchRecord, FileRecord, Status
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.router import Router
from batchyard.service.servicer import Servicer
from batchyard.service.watching import Changes
from batchyard.v1 import CreateBatchRequest

NOW = 1_000


class Place:
    """A `Provider` that only registers what it is asked to start."""

    def __init__(self, name: str) -> None:
        self.name = name

    def upload(self, owner: TenantRegistry, purpose: str) -> AbstractAsyncContextManager[Upload]:
        raise NotImplementedError

    def content(self, owner: TenantRegistry, file: FileRecord, offset: int, length: int) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def delete(self, owner: TenantRegistry, file: FileRecord) -> None:
        raise NotImplementedError

    async def create_batch(self, owner: TenantRegistry, new: NewBatch) -> BatchRecord:
        return await owner.add_batch(
            {
                "id": f"batch_{self.name}",
                "provider": self.name,
                "endpoint": new.endpoint,
                "input_file_id": new.input_file_id,
                "completion_window": new.completion_window,
                "status": Status.VALIDATING,
                "created_at": NOW,
                "expires_at": NOW + 86_400,
                "metadata": new.metadata,
                "output_seconds": 86_400,
            }
        )

    async def cancel_batch(self, owner: TenantRegistry, batch: BatchRecord) -> BatchRecord:
        raise NotImplementedError


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await asyncio.to_thread(Database, f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    yield database
    await asyncio.to_thread(database.close)


@pytest.mark.parametrize(
    ("file_id", "named", "provider"),
    [
        pytest.param("file-there", "", "there", id="its file's"),
        pytest.param("file-here", "", "here", id="its file's, which is the default"),
        pytest.param("file-there", "here", "here", id="the one that is named"),
        pytest.param("file-none", "", "here", id="the default, for a file that is missing"),
    ],
)
async def test_a_batch_goes_to_a_provider(database: Database, file_id: str, named: str, provider: str) -> None:
    router = Router([Place("here"), Place("there")], "here")
    metrics = ServiceMetrics(Metrics())
    servicer = Servicer(
        database, router, Mutations(), Changes(), metrics, upload_idle_seconds=60, clock=lambda: float(NOW)
    )
    owner = TenantRegistry(database, "default")
    for place in ("here", "there"):
        await owner.add_file(file_row(place), [])
    current_tenant.set("default")
    request = CreateBatchRequest(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", provider=named
    )
    assert (await servicer.CreateBatch(request, None)).batch.provider == provider  # type: ignore[arg-type]


def file_row(place: str) -> dict[str, object]:
    return {
        "id": f"file-{place}",
        "provider": place,
        "purpose": "batch",
        "filename": "input.jsonl",
        "bytes": 1,
        "created_at": NOW,
        "status": "processed",
    }
