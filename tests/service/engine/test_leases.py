"""Work that changed hands: whoever slept through a lease changes nothing any more."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import pytest
from sqlalchemy import select
from tests.fakes import Gate
from tests.harness import chat_lines, figures, jsonl, until
from tests.memory_store import MemoryStore

from batchyard.service.config.settings import Limits
from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import BatchRecord, ChunkRecord, Counts, Part, SealedChunk, Status
from batchyard.service.engine.chunk_runner import ChunkRunner
from batchyard.service.engine.engine import LEASE_SECONDS, Engine
from batchyard.service.engine.local_lifecycle import LocalLifecycle
from batchyard.service.engine.result_objects import OUTPUT, segments
from batchyard.service.engine.runners.slots import LineControl, LineSlots
from batchyard.service.engine.transitions import Steps
from batchyard.service.errors import LeaseLost, Unavailable
from batchyard.service.jsonl.results import Answer, Failure
from batchyard.service.jsonl.scanner import Scanner
from batchyard.service.jsonl.validation import judge
from batchyard.service.objects.local import FileStore
from batchyard.service.registry.change_feed import Changes
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.schema import batches, chunks
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry

LINES = 60
CHUNK_LINES = 20
DATA = jsonl(chat_lines(LINES))
NOW = 1_000.0
PLANNED = [{"n": n, "first_line": 1 + n, "start": n, "end": n + 1} for n in range(2)]
SEALED = SealedChunk(counts=Counts(completed=1), output=Part("segments/a", 10), error=None)

Commit = Callable[[WorkRegistry, BatchRecord], Awaitable[object]]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = await asyncio.to_thread(SqliteDatabase, f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    yield database
    await asyncio.to_thread(database.close)


@pytest.fixture
async def tenant(database: SqliteDatabase) -> TenantRegistry:
    return TenantRegistry(database, "default")


class Workers(NamedTuple):
    """Two owners of leases, and the same batch and chunk as each holds it: `late` slept, `owner` took over."""

    late: WorkRegistry
    late_batch: BatchRecord
    late_chunk: ChunkRecord
    owner: WorkRegistry
    batch: BatchRecord
    chunk: ChunkRecord


@pytest.fixture
async def workers(database: SqliteDatabase, tenant: TenantRegistry) -> Workers:
    late, owner = WorkRegistry(database, "late"), WorkRegistry(database, "owner")
    await new_batch(tenant, "file-none")
    claimed = await claimed_by(late, NOW)
    late_batch = await late.plan(claimed, PLANNED, status=Status.IN_PROGRESS, total=2)
    late_chunk = await late.claim_chunk((await late.chunks(late_batch))[0], NOW, NOW + LEASE_SECONDS)
    after = NOW + LEASE_SECONDS + 1
    batch = await claimed_by(owner, after)
    chunk = await owner.claim_chunk(late_chunk, after, after + LEASE_SECONDS)
    return Workers(late, late_batch, late_chunk, owner, batch, chunk)


async def test_a_batch_is_claimed_once_until_its_lease_ends(database: SqliteDatabase, tenant: TenantRegistry) -> None:
    first, second = WorkRegistry(database, "first"), WorkRegistry(database, "second")
    batch = await new_batch(tenant, "file-none")
    held = await claimed_by(first, NOW)
    assert held.id == batch.id
    assert not await second.claim_batches(NOW + LEASE_SECONDS - 1, NOW + 2 * LEASE_SECONDS)
    taken = await claimed_by(second, NOW + LEASE_SECONDS)
    assert (taken.id, taken.epoch) == (batch.id, held.epoch + 1)


async def test_an_extended_lease_is_not_taken(database: SqliteDatabase, tenant: TenantRegistry) -> None:
    first, second = WorkRegistry(database, "first"), WorkRegistry(database, "second")
    await new_batch(tenant, "file-none")
    await claimed_by(first, NOW)
    await first.extend(NOW + 2 * LEASE_SECONDS)
    assert not await second.claim_batches(NOW + LEASE_SECONDS + 1, NOW + 3 * LEASE_SECONDS)


async def test_a_chunk_whose_lease_runs_is_refused_to_another_owner(workers: Workers) -> None:
    at = NOW + LEASE_SECONDS + 2
    with pytest.raises(LeaseLost):
        await workers.late.claim_chunk(workers.late_chunk, at, at + LEASE_SECONDS)


@pytest.mark.parametrize(
    "commit",
    [
        pytest.param(lambda work, batch: work.update_batch(batch, status=Status.FINALIZING), id="update"),
        pytest.param(lambda work, batch: work.plan(batch, [], total=9), id="plan"),
        pytest.param(lambda work, batch: work.finish(batch, [], status=Status.COMPLETED), id="finish"),
        pytest.param(lambda work, batch: work.reread(batch), id="reread"),
    ],
)
async def test_a_batch_step_of_an_older_epoch_is_refused(
    workers: Workers, tenant: TenantRegistry, commit: Commit
) -> None:
    with pytest.raises(LeaseLost):
        await commit(workers.late, workers.late_batch)
    assert await tenant.get_batch(workers.batch.id) == workers.batch
    assert len(await workers.owner.chunks(workers.batch)) == len(PLANNED)


async def test_files_of_a_refused_end_are_not_registered(workers: Workers, tenant: TenantRegistry) -> None:
    results = [("output_file_id", file_row("file-late"), [Part("segments/late", 1)])]
    with pytest.raises(LeaseLost):
        await workers.late.finish(workers.late_batch, results, status=Status.COMPLETED)
    listed, _ = await tenant.list_files(provider="", purpose="", after="", limit=10, ascending=True)
    assert listed == []


async def test_counts_of_an_older_epoch_are_not_shown(workers: Workers, tenant: TenantRegistry) -> None:
    await workers.late.publish(workers.late_chunk, Counts(completed=9))
    assert (await tenant.get_batch(workers.batch.id)).completed == 0
    await workers.owner.publish(workers.chunk, Counts(completed=1))
    assert (await tenant.get_batch(workers.batch.id)).completed == 1


async def test_a_seal_of_an_older_epoch_is_refused_and_the_newer_one_kept(workers: Workers) -> None:
    with pytest.raises(LeaseLost):
        await workers.late.seal(workers.late_chunk, SEALED)
    assert not (await workers.owner.chunks(workers.batch))[0].sealed
    await workers.owner.seal(workers.chunk, SEALED)
    assert (await workers.owner.chunks(workers.batch))[0].output_key == "segments/a"


class Keeping(MemoryStore):
    """Deletes nothing for now."""

    async def delete(self, key: str) -> None:
        raise Unavailable("not now")


async def test_a_late_seal_says_so_also_where_its_objects_stay_for_now(workers: Workers) -> None:
    async with segments(Keeping(), workers.batch.id, workers.late_chunk, bounded=True) as made:
        await made.write(OUTPUT, b"{}\n")
        with pytest.raises(LeaseLost):
            await made.seal(workers.late, workers.late_chunk, Counts(completed=1))


async def test_a_chunk_is_sealed_once(workers: Workers) -> None:
    await workers.owner.seal(workers.chunk, SEALED)
    again = msgspec.structs.replace(SEALED, output=Part("segments/b", 10))
    with pytest.raises(LeaseLost):
        await workers.owner.seal(workers.chunk, again)
    assert (await workers.owner.chunks(workers.batch))[0].output_key == "segments/a"


async def test_a_late_worker_neither_extends_nor_releases_the_owners_lease(workers: Workers) -> None:
    await workers.late.extend(NOW + 100 * LEASE_SECONDS)
    await workers.late.release(workers.late_batch)
    in_between = NOW + LEASE_SECONDS + 2
    assert not await workers.late.claim_batches(in_between, in_between + LEASE_SECONDS)
    assert (await claimed_by(workers.late, NOW + 3 * LEASE_SECONDS)).id == workers.batch.id


@pytest.mark.parametrize("shared", [False, True], ids=["journals apart", "journals shared"])
async def test_an_engine_takes_over_from_a_frozen_one_and_every_line_appears_once(
    tmp_path: Path,
    database: SqliteDatabase,
    tenant: TenantRegistry,
    caplog: pytest.LogCaptureFixture,
    shared: bool,
) -> None:
    caplog.set_level(logging.INFO, "batchyard.engine")
    clock, frozen_lines, awake_lines = Clock(), Lines(below=25), Lines(below=45)
    store = FileStore(tmp_path / "store", Disk())
    work = WorkRegistry(database, "looking on")
    async with (
        engine(database, store, tmp_path / "frozen", frozen_lines, clock) as frozen,
        engine(database, store, tmp_path / ("frozen" if shared else "awake"), awake_lines, clock) as awake,
    ):
        await add_input(tenant, store)
        batch = await new_batch(tenant, "file-input")
        frozen.wake()
        await until(lambda: tenant.get_batch(batch.id), lambda seen: seen.completed == 25)
        await until(lambda: work.chunks(batch), lambda chunks: [chunk.sealed for chunk in chunks] == [1, 0, 0])
        clock.now += LEASE_SECONDS + 1
        awake.wake()
        await until(lambda: work.chunks(batch), lambda chunks: [chunk.sealed for chunk in chunks] == [1, 1, 0])
        frozen_lines.thaw()
        await until(lambda: messages(caplog), lambda told: "lease lost" in told)
        awake_lines.thaw()
        ended = await until(lambda: tenant.get_batch(batch.id), lambda seen: seen.status == Status.COMPLETED)
    assert await output_of(ended, tenant, store) == [f"request-{number}" for number in range(LINES)]
    assert ended.completed == LINES
    assert len(list((tmp_path / "store/segments").iterdir())) == 3, "what a late worker sealed was left behind"
    assert sorted(awake_lines.asked) == list(range(25 if shared else CHUNK_LINES, LINES))


async def test_work_that_takes_longer_than_its_lease_keeps_it(
    tmp_path: Path, database: SqliteDatabase, tenant: TenantRegistry
) -> None:
    lease, clock, lines = 0.4, Clock(), Lines(below=0)
    store, rival = FileStore(tmp_path / "store", Disk()), WorkRegistry(database, "rival")
    async with engine(database, store, tmp_path / "journals", lines, clock, lease) as holder:
        await add_input(tenant, store)
        batch = await new_batch(tenant, "file-input")
        holder.wake()
        await until(lambda: leases(database), lambda held: len(held) == 3)  # the batch's, and two chunks'
        for _ in range(3):
            clock.now += 0.9 * lease
            await until(lambda: leases(database), lambda held: set(held) == {clock.now + lease})
            assert not await rival.claim_batches(clock.now, clock.now + lease)
            with pytest.raises(LeaseLost):
                await rival.claim_chunk((await rival.chunks(batch))[0], clock.now, clock.now + lease)
        lines.thaw()
        await until(lambda: tenant.get_batch(batch.id), lambda seen: seen.status == Status.COMPLETED)
    assert sorted(lines.asked) == list(range(LINES))


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
    database: SqliteDatabase, store: FileStore, folder: Path, lines: Lines, clock: Clock, lease: float = LEASE_SECONDS
) -> AsyncIterator[Engine]:
    """An engine with journals in `folder`, as a process of its own would have it over the same registry."""
    folder.mkdir(exist_ok=True)
    work = WorkRegistry(database, uuid4().hex)
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
    life = LocalLifecycle(work, steps, chunks, batch_slots=1)
    engine = Engine(work, lambda batch: life, Changes(), clock, lease)
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


async def leases(database: SqliteDatabase) -> list[float]:
    """Until when each lease runs that somebody holds."""
    ends = [select(table.c.lease_until).where(table.c.lease_until > 0) for table in (batches, chunks)]
    return await database.read(lambda connection: [end for query in ends for end in connection.scalars(query)])


async def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return caplog.messages


async def output_of(batch: BatchRecord, tenant: TenantRegistry, store: FileStore) -> list[str]:
    """The custom_ids in the output file."""
    file = await tenant.get_file(batch.output_file_id or "")
    data = b"".join([piece async for piece in store.read(await tenant.parts(file), 0, file.bytes)])
    return [json.loads(line)["custom_id"] for line in data.splitlines()]
