"""Engines over one registry, as processes of their own would have them, and what they run."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.fakes import Gate
from tests.harness import chat_lines, figures, jsonl

from batchyard.service.config.settings import Limits
from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import BatchRecord, Part, Status
from batchyard.service.engine.chunk_runner import ChunkRunner
from batchyard.service.engine.engine import LEASE_SECONDS, Engine
from batchyard.service.engine.local_lifecycle import Lifecycle, LocalLifecycle
from batchyard.service.engine.runners.slots import LineControl, LineSlots
from batchyard.service.engine.transitions import Steps
from batchyard.service.jsonl.results import Answer, Failure
from batchyard.service.jsonl.scanner import Scanner
from batchyard.service.jsonl.validation import judge
from batchyard.service.objects.local import FileStore
from batchyard.service.registry.change_feed import Changes
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry

LINES = 60
CHUNK_LINES = 20
DATA = jsonl(chat_lines(LINES))
NOW = 1_000.0


class Clock:
    """A time that passes only when told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Lines:
    """A `LineRunner` that answers lines `below` a number, and the others after `thaw`."""

    def __init__(self, below: int) -> None:
        self.slots = LineSlots(2 * LINES, figures())
        self.asked: list[int] = []
        self._below = below
        self._gate = Gate()

    def thaw(self) -> None:
        self._gate.open()

    async def run(self, path: str, body: bytes, *, until: float, control: LineControl) -> Answer | Failure | None:
        number = int(json.loads(body)["messages"][-1]["content"].split()[1])
        self.asked.append(number)
        if number >= self._below:
            await self._gate.passed()
        return Answer(200, "req_1", b"{}")


@asynccontextmanager
async def engine(
    database: SqliteDatabase,
    store: FileStore,
    folder: Path,
    lines: Lines,
    clock: Clock,
    lease: float = LEASE_SECONDS,
    *,
    work: WorkRegistry | None = None,
    life: Lifecycle | None = None,
) -> AsyncIterator[Engine]:
    """An engine with journals in `folder`, as a process of its own would have it over the same registry."""
    folder.mkdir(exist_ok=True)
    work = work or WorkRegistry(database, uuid4().hex)
    chunks = ChunkRunner(
        work,
        store,
        Disk(),
        folder,
        lines,
        figures(),
        line_seconds=600,
        lease_seconds=lease,
        clock=clock,
    )
    steps = Steps(work, lambda batch, scan: judge(scan, batch.endpoint, Limits()), Limits(), clock)
    lives = life or LocalLifecycle(work, steps, chunks, batch_slots=1)
    engine = Engine(work, lambda batch: lives, Changes(), clock, lease)
    async with engine.running():
        yield engine


async def add_input(tenant: TenantRegistry, store: FileStore) -> None:
    scanner = Scanner(Limits(), chunk_lines=CHUNK_LINES, chunk_bytes=1 << 20)
    scanner.feed(DATA)
    async with store.writer("files/file-input") as writer:
        await writer.write(DATA)
        await writer.commit()
    found = {"purpose": "batch", "bytes": len(DATA), "scan": scanner.finish().to_dict()}
    await tenant.add_file(file_row("file-input") | found, [Part("files/file-input", len(DATA))])


def file_row(file_id: str) -> dict[str, Any]:
    return {
        "id": file_id,
        "provider": "local",
        "purpose": "batch_output",
        "filename": "results.jsonl",
        "bytes": 1,
        "created_at": int(NOW),
        "status": "processed",
    }


async def new_batch(tenant: TenantRegistry, file_id: str) -> BatchRecord:
    return await tenant.add_batch(
        {
            "id": f"batch_{uuid4().hex}",
            "provider": "local",
            "endpoint": "/v1/chat/completions",
            "input_file_id": file_id,
            "completion_window": "24h",
            "status": Status.VALIDATING,
            "created_at": int(NOW),
            "expires_at": int(NOW) + 86_400,
            "metadata": {},
            "output_seconds": 86_400,
        }
    )


async def claimed_by(work: WorkRegistry, now: float) -> BatchRecord:
    (batch,) = await work.claim_batches(now, now + LEASE_SECONDS)
    return batch


async def output_of(batch: BatchRecord, tenant: TenantRegistry, store: FileStore) -> list[str]:
    """The custom_ids in the output file."""
    file = await tenant.get_file(batch.output_file_id or "")
    data = b"".join([piece async for piece in store.read(await tenant.parts(file), 0, file.bytes)])
    return [json.loads(line)["custom_id"] for line in data.splitlines()]
