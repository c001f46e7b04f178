"""What the registry keeps of shards: each line is given out once, and nothing hides what is to be removed."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchyard.service.domain.names import INTERNAL
from batchyard.service.domain.records import BatchRecord, IdempotencyKey, PlacementRecord
from batchyard.service.errors import FailedPrecondition, LeaseLost, NotFound
from batchyard.service.registry.deployment import Intent, RemoteRegistry
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.placements import NewPlacement, Placements, Standing
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry

BATCH: dict[str, Any] = {
    "id": "batch_1",
    "provider": "groups",
    "endpoint": "/v1/chat/completions",
    "input_file_id": "file-1",
    "completion_window": "24h",
    "status": "in_progress",
    "created_at": 1,
    "expires_at": 90_000,
    "metadata": {},
    "output_seconds": 1,
}
FILE: dict[str, Any] = {
    "provider": "azure",
    "purpose": "batch",
    "filename": "a.jsonl",
    "bytes": 1,
    "created_at": 1,
    "status": "processed",
    "observed_at": 1,
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    database = SqliteDatabase(f"sqlite:///{tmp_path}/r.db")
    yield database
    database.close()


def wanted(start: int, end: int, _: Standing) -> NewPlacement:
    place: dict[str, Any] = {"member": "m", "provider": "azure", "deployment": "a", "model": "m", "first_line": 1}
    more = {"lines": 1, "tokens": 1, "reason": "", "status": "validating", "created_at": 1}
    return NewPlacement({"first_line": 1, "start": start, "end": end}, place | more)


async def test_lines_are_given_out_once(database: SqliteDatabase) -> None:
    """Whoever was cancelled while its placing was committed begins again with a view from before."""
    batch: BatchRecord = await TenantRegistry(database, "alice").add_batch(BATCH)
    placements = Placements(database, lambda _: None)
    await placements.place(batch, partial(wanted, 0, 10))
    for start, end in ((0, 10), (9, 20), (0, 5)):
        with pytest.raises(LeaseLost):
            await placements.place(batch, partial(wanted, start, end))
        with pytest.raises(LeaseLost):
            await placements.take(batch, {"first_line": 1, "start": start, "end": end})
    await placements.place(batch, partial(wanted, 10, 20))
    assert len(await placements.of(batch)) == 2


async def test_inputs_are_those_of_one_deployment(database: SqliteDatabase) -> None:
    placements = Placements(database, lambda _: None)
    for name in ("gone", "there"):
        await RemoteRegistry(database, name, lambda _: None).add_file(INTERNAL, f"file-{name}", FILE)
    assert [file.id for file in await placements.unused_inputs("there", before=1000)] == ["file-there"]


async def test_what_shards_have_does_not_expire_here(database: SqliteDatabase) -> None:
    for tenant in (INTERNAL, "alice"):
        registry = RemoteRegistry(database, tenant, lambda _: None)
        await registry.add_file(tenant, f"file-{tenant}", FILE | {"expires_at": 2})
    assert await WorkRegistry(database, "me").expire_files(now=1000) == 1


async def test_a_key_is_one_of_its_deployment(database: SqliteDatabase) -> None:
    owner, once = TenantRegistry(database, INTERNAL), IdempotencyKey("key", "digest", 1)
    one, other = (RemoteRegistry(database, name, lambda _: None) for name in ("one", "other"))
    chosen = {name: BATCH[name] for name in BATCH if name not in {"id", "status"}}
    intent = Intent("batch_1", INTERNAL, "one", {"source": {}, "marked": True, **chosen}, "key", "digest", 1)
    await one.begin(owner, intent, once, None)
    assert (await one.under(owner, "key"), await other.under(owner, "key")) == (intent, None)
    made = await one.complete(intent, "batch_there", {"status": "validating"})
    assert (await one.under(owner, "key"), await other.under(owner, "key")) == (made, None)


async def cancelled_while_leased(database: SqliteDatabase) -> BatchRecord:
    """A batch as its worker knows it, whose cancel was committed since."""
    owner = TenantRegistry(database, "alice")
    batch = await owner.add_batch(BATCH)
    await owner.cancel_batch(batch.id, "", 5)
    return batch


async def test_nothing_is_placed_or_asked_after_a_committed_cancel(database: SqliteDatabase) -> None:
    owner, placements = TenantRegistry(database, "alice"), Placements(database, lambda _: None)
    batch = await owner.add_batch(BATCH)
    placed = await placements.place(batch, partial(wanted, 0, 10))
    assert isinstance(placed, PlacementRecord)
    await owner.cancel_batch(batch.id, "", 5)
    for decide in (partial(wanted, 10, 20), lambda _: "waiting for room"):
        with pytest.raises(LeaseLost, match="cancelling"):
            await placements.place(batch, decide)
    with pytest.raises(LeaseLost, match="cancelling"):
        await placements.begin_asking(batch, placed)
    assert await placements.of(batch) == [placed]
    assert (await owner.get_batch(batch.id)).waiting is None


async def test_what_was_begun_before_a_cancel_is_written_down_after_it(database: SqliteDatabase) -> None:
    owner, placements = TenantRegistry(database, "alice"), Placements(database, lambda _: None)
    batch = await owner.add_batch(BATCH)
    for start in (0, 10):
        await placements.place(batch, partial(wanted, start, start + 10))
    await owner.cancel_batch(batch.id, "", 5)
    first, second = await placements.of(batch)
    assert (await placements.update(batch, first, status="cancelled", open=0)).status == "cancelled"
    await placements.dissolve(batch, second.n)
    await placements.take(batch, {"first_line": 1, "start": 10, "end": 20})
    assert [one.n for one in await placements.of(batch)] == [first.n]


async def test_nothing_is_written_of_a_batch_that_has_ended(database: SqliteDatabase) -> None:
    owner, work = TenantRegistry(database, "alice"), WorkRegistry(database, "me")
    placements = Placements(database, lambda _: None)
    await owner.add_batch(BATCH)
    (batch,) = await work.claim_batches(1, 100)
    placed = await placements.place(batch, partial(wanted, 0, 10))
    assert isinstance(placed, PlacementRecord)
    ended = await work.finish(batch, [], status="completed", completed_at=5)
    late = [
        placements.place(batch, partial(wanted, 10, 20)),
        placements.begin_asking(batch, placed),
        placements.update(batch, placed, open=1),
        placements.take(batch, {"first_line": 1, "start": 10, "end": 20}),
        placements.dissolve(batch, placed.n),
    ]
    for write in late:
        with pytest.raises(LeaseLost, match="completed"):
            await write
    await work.show_waiting(batch, "waiting for the endpoint")
    assert [one.open for one in await placements.of(batch)] == [0]
    assert await owner.get_batch(batch.id) == ended


async def test_a_batch_that_is_cancelled_says_no_more_that_it_waits(database: SqliteDatabase) -> None:
    batch = await cancelled_while_leased(database)
    await WorkRegistry(database, "me").show_waiting(batch, "waiting for the endpoint")
    assert (await TenantRegistry(database, "alice").get_batch(batch.id)).waiting is None


async def test_no_creation_begins_over_a_file_that_is_deleted(database: SqliteDatabase) -> None:
    owner, registry = TenantRegistry(database, "alice"), RemoteRegistry(database, "a", lambda _: None)
    file = await registry.add_file("alice", "file-1", FILE)
    chosen = {name: BATCH[name] for name in BATCH if name not in {"id", "status"}}
    intent = Intent("batch_1", "alice", "a", {"source": {}, "marked": True, **chosen}, "key", "digest", 1)
    async with registry.removing(owner, file):
        with pytest.raises(NotFound, match="file-1"):
            await registry.begin(owner, intent, None, None, file)
    assert await registry.begin(owner, intent, None, None, file) == intent
    with pytest.raises(FailedPrecondition, match="being created"):
        async with registry.removing(owner, file):
            pass
    await registry.drop(intent)
    async with registry.removing(owner, file):
        await registry.mark_deleted(file, 7)
    with pytest.raises(NotFound):
        await registry.begin(owner, intent, None, None, file)
    with pytest.raises(NotFound):
        await registry.mark_deleted(file, 8)
    assert await registry.intents() == []
