"""Work that changed hands: whoever slept through a lease changes nothing any more."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from sqlalchemy import select
from tests.harness import until
from tests.memory_store import MemoryStore
from tests.registries import failing
from tests.service.engine.engines import (
    CHUNK_LINES,
    LINES,
    NOW,
    Clock,
    Lines,
    add_input,
    claimed_by,
    engine,
    file_row,
    new_batch,
    output_of,
)

from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import BatchRecord, ChunkRecord, Counts, Part, SealedChunk, Status
from batchyard.service.engine.control import Control
from batchyard.service.engine.engine import LEASE_SECONDS
from batchyard.service.engine.result_objects import OUTPUT, segments
from batchyard.service.errors import LeaseLost, Unavailable
from batchyard.service.objects.local import FileStore
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.schema import batches, chunks
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry

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


class Dying:
    """A `Lifecycle` whose first step ends by `death`; the next one ends the batch."""

    def __init__(self, work: WorkRegistry, death: BaseException) -> None:
        self.steps = 0
        self._work = work
        self._death = death

    async def advance(self, batch: BatchRecord, control: Control) -> BatchRecord:
        self.steps += 1
        if self.steps == 1:
            raise self._death
        return await self._work.finish(batch, [], status=Status.FAILED, failed_at=int(NOW))


class Death(BaseException):
    """What no handler of exceptions sees."""


class Unanswered(WorkRegistry):
    """Its first claim is committed, and its answer lost."""

    lost = False

    async def claim_batches(self, now: float, until: float, most: int = 1) -> list[BatchRecord]:
        claimed = await super().claim_batches(now, until, most)
        if claimed and not self.lost:
            self.lost = True
            raise Unavailable("The registry can't be reached right now.")
        return claimed


class TestABatchThatNoTaskHas:
    @pytest.mark.parametrize("death", [asyncio.CancelledError(), Death()], ids=repr)
    async def test_as_its_task_died_is_carried_anew(
        self, tmp_path: Path, database: SqliteDatabase, tenant: TenantRegistry, death: BaseException
    ) -> None:
        work = WorkRegistry(database, "me")
        await self._ends(tmp_path, database, tenant, work, Dying(work, death))

    async def test_as_its_claim_was_not_answered_is_carried_anew(
        self, tmp_path: Path, database: SqliteDatabase, tenant: TenantRegistry
    ) -> None:
        work = Unanswered(database, "me")
        life = Dying(work, RuntimeError("the first of its steps"))
        await self._ends(tmp_path, database, tenant, work, life)
        assert work.lost

    @pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ERROR])
    async def test_as_it_could_not_be_read_again_is_none(
        self,
        tmp_path: Path,
        database: SqliteDatabase,
        tenant: TenantRegistry,
        caplog: pytest.LogCaptureFixture,
        code: int,
    ) -> None:
        """What goes wrong after a step that failed is tried again as the step is."""
        work = WorkRegistry(database, "me")
        with failing(code, "FROM batches", "batches.epoch = ?", times=2):
            await self._ends(tmp_path, database, tenant, work, Dying(work, RuntimeError("a step")), LEASE_SECONDS)
        assert not [record for record in caplog.records if "given back" in record.message]

    async def test_leaves_its_chunks_to_others_too(self, workers: Workers) -> None:
        at = NOW + LEASE_SECONDS + 2
        assert await workers.owner.give_back({(workers.batch.seq, workers.batch.epoch)}) == []
        with pytest.raises(LeaseLost):
            await workers.late.claim_chunk(workers.late_chunk, at, at + LEASE_SECONDS)
        assert await workers.late.give_back(set()) == []
        assert await workers.owner.give_back({(workers.batch.seq, workers.late_batch.epoch)}) == [workers.batch.id]
        assert await workers.owner.give_back(set()) == []
        assert (await claimed_by(workers.late, at)).id == workers.batch.id
        assert (await workers.late.claim_chunk(workers.late_chunk, at, at + LEASE_SECONDS)).n == workers.chunk.n

    async def _ends(
        self,
        folder: Path,
        database: SqliteDatabase,
        tenant: TenantRegistry,
        work: WorkRegistry,
        life: Dying,
        lease: float = 0.4,
    ) -> None:
        """A batch whose first step fails ends by its second, in the same process."""
        batch = await new_batch(tenant, "file-none")
        store, lines = FileStore(folder / "store", Disk()), Lines(below=0)
        async with engine(database, store, folder / "journals", lines, Clock(), lease, work=work, life=life):
            await until(lambda: tenant.get_batch(batch.id), lambda seen: seen.status == Status.FAILED)
        assert life.steps == 2


async def leases(database: SqliteDatabase) -> list[float]:
    """Until when each lease runs that somebody holds."""
    ends = [select(table.c.lease_until).where(table.c.lease_until > 0) for table in (batches, chunks)]
    return await database.read(lambda connection: [end for query in ends for end in connection.scalars(query)])


async def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return caplog.messages
