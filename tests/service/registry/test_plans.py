"""How the registry's queries find their rows: none gets slower by what was there before."""

import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine
from tests.registries import a_batch, a_file, opened

from batchyard.service.config.settings import Quotas, Rate
from batchyard.service.domain.keys import KeyRecord
from batchyard.service.domain.quotas import Bound
from batchyard.service.domain.records import Counts, IdempotencyKey, Part, SealedChunk, Status
from batchyard.service.errors import FailedPrecondition, NotFound
from batchyard.service.registry.deployment import Intent, RemoteRegistry
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.keys import KeyRegistry
from batchyard.service.registry.migrate import migrate
from batchyard.service.registry.placements import NewPlacement, Placements
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.usage import UsageEstimate
from batchyard.service.registry.work import Enqueued, WorkRegistry

NOW = 100_000
RATE = Rate(8, 60)
LIMITS = Quotas(batches_in_flight=9, enqueued_tokens=9999, lines_per_day=999, tokens_per_day=9999)
CHUNK = {"n": 0, "first_line": 1, "start": 0, "end": 1}
SHARD = {"member": "m", "provider": "openai", "deployment": "west", "model": "m", "first_line": 1, "reason": ""}
SCAN = re.compile(r"SCAN (files|file_parts|batches|placements|idempotency_keys|intents|keys)\b")
FEW = re.compile(r"FROM (placements|intents|chunks)\b")  # of one batch, or open, or under way

_FRAME = re.compile("BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|PRAGMA")


def key(*providers: str) -> KeyRecord:
    return KeyRecord(id="key_1", tenant="a", name="k", providers=providers, limits=LIMITS, created_at=1)


async def calls_of_tenants(database: SqliteDatabase) -> None:
    plain = TenantRegistry(database, "a")
    file = await plain.add_file(a_file(0), [Part("files/0", 1)])
    await plain.check_uploads(RATE, NOW, 0)
    await plain.add_batch(a_batch(0, provider="groups"))
    for providers in ((), ("west",), ("openai", "west"), [f"p{n}" for n in range(20)]):
        homes, bounds = {"west": "openai"}, [Bound(LIMITS, "a", key(*providers)), Bound(LIMITS, "a")]
        owner = TenantRegistry(database, "a", key(*providers), homes, bounds)
        for place in ("", "local", "west"):
            for after in ("", "batch_0"):
                if not after or not providers:
                    await owner.list_batches(provider=place, after=after, limit=5)
                    page = partial(owner.list_files, purpose="batch", after=after and "file-0", limit=5)
                    for ascending in (True, False):
                        await page(provider=place, ascending=ascending)
            for missing in (owner.get_file("none", place), owner.get_batch("none", place)):
                with pytest.raises(NotFound):
                    await missing
        number = len(providers)
        made = await owner.add_batch(a_batch(10 + number, created_at=NOW), IdempotencyKey(f"k{number}", "d", NOW), RATE)
        await owner.add_batch(
            a_batch(50 + number), IdempotencyKey(f"k{number}", "d", NOW + 100_000), RATE, UsageEstimate(1, 1)
        )
        await plain.cancel_batch(made.id, "", NOW)
    await plain.placements([await plain.get_batch("batch_0")] * 2)
    await plain.parts(file)
    await plain.stored([Bound(LIMITS, "a")])
    with pytest.raises(FailedPrecondition):
        await plain.delete_file("file-0", "", 5)


async def calls_of_the_engine(database: SqliteDatabase) -> None:
    tenant, work = TenantRegistry(database, "a"), WorkRegistry(database, "w", idle=("off",))
    await work.void_leases()
    await tenant.add_file(a_file(0), [Part("files/0", 1)])
    await tenant.add_file(a_file(1, expires_at=3), [])
    await tenant.add_batch(a_batch(0))
    (claimed,) = await work.claim_batches(2, 3)
    assert await work.claim_batches(2, 3) == []
    bounds = [Enqueued("tokens", "m", 1, 9), Enqueued("requests", "e", 1, 9)]
    batch = await work.plan(claimed, [CHUNK], bounds=bounds, status=Status.IN_PROGRESS, total=1)
    (chunk,) = await work.chunks(batch)
    chunk = await work.claim_chunk(chunk, 2, 3)
    await work.extend(9)
    await work.release(batch)
    await work.input_of(batch)
    await work.publish(chunk, Counts(completed=1))
    await work.sealed_chunks()
    await work.ended_batches(["batch_0"])
    await work.known_keys(["files/0"])
    await work.seal(chunk, SealedChunk(counts=Counts(completed=1), output=Part("segments/0", 1), error=None))
    await tenant.cancel_batch("batch_0", "", 5)
    batch = await work.update_batch(await work.reread(batch), status=Status.FINALIZING)
    await work.finish(batch, [], status=Status.COMPLETED)
    assert await work.expire_files(9) == 1
    await tenant.delete_file("file-0", "", 5)
    parts = await work.deleted_parts()
    assert parts == [Part("files/0", 1)]
    await work.forget_parts(parts)
    assert await work.forget_files(10) == 2
    await work.forget_keys(5)


async def calls_for_deployments(database: SqliteDatabase) -> None:
    owner, west = TenantRegistry(database, "a"), RemoteRegistry(database, "west", lambda _: None)
    request = {"source": {}, "marked": True, "provider": "openai", "input_file_id": "file-0", "metadata": {}}
    rest = {"endpoint": "e", "completion_window": "24h", "output_seconds": 1}
    intent = Intent("batch_1", "a", "west", request | rest, "key", "d", NOW)
    once = IdempotencyKey("key", "d", NOW)
    assert await west.begin(owner, intent, once, RATE) == await west.begin(owner, intent, once, RATE) == intent
    assert await west.under(owner, "key") == intent
    said = {"status": Status.IN_PROGRESS, "created_at": NOW, "expires_at": NOW}
    batch = await west.complete(intent, "native", said)
    assert await west.under(owner, "key") == await west.begin(owner, intent, once, RATE) == batch
    await west.intents()
    assert await west.live() == await west.live("a") == [batch]
    assert await west.known(["native"]) == {"native"}
    result = a_file(0, native_id="file-0", upstream={})
    del result["id"]
    batch = await west.observe(batch, {"status": Status.COMPLETED}, {"output_file_id": result})
    await west.adopt_batch("a", "other", {**a_batch(3), "status": Status.COMPLETED})
    await west.describe(await west.add_file("a", "file-0", result), {"observed_at": 1})


async def calls_of_groups(database: SqliteDatabase) -> None:
    owner, placements = TenantRegistry(database, "a"), Placements(database, lambda _: None)
    batch = await owner.add_batch(a_batch(0, provider="groups"))
    chunk = {name: CHUNK[name] for name in ("first_line", "start", "end")}
    wanted = NewPlacement(chunk, {**SHARD, "status": Status.VALIDATING, "created_at": 1})
    placed = await placements.place(batch, lambda _: wanted)
    assert not isinstance(placed, str)
    assert await placements.of(batch) == [placed]
    await owner.placements([batch])
    await placements.update(batch, placed, native_id="x")
    await placements.dissolve(batch, placed.n)
    await placements.strays("west", {"file-1": "batch_0"})


async def calls_of_keys(database: SqliteDatabase) -> None:
    registry = KeyRegistry(database)
    await registry.add(key(), "d")
    await registry.find("key_1")
    await registry.page("a", "key_1", 5)
    await registry.rotate("key_1", "e", 1, 2)
    await registry.revoke("key_1", 3)


@pytest.mark.parametrize("migrated", [False, True])
@pytest.mark.parametrize(
    "calls", [calls_of_tenants, calls_of_the_engine, calls_for_deployments, calls_of_groups, calls_of_keys]
)
async def test_no_query_scans_or_sorts_what_grows(
    tmp_path: Path, calls: Callable[[SqliteDatabase], Awaitable[None]], migrated: bool
) -> None:
    path = tmp_path / "registry.sqlite3"
    if migrated:
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            migrate(connection)
        engine.dispose()
    async with opened(tmp_path) as database:
        with statements() as told:
            await calls(database)
    assert told
    with closing(sqlite3.connect(path)) as direct:
        plans = {
            statement: str([row[3] for row in direct.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)])
            for statement, parameters in told.items()
        }
    assert not {statement: plan for statement, plan in plans.items() if SCAN.search(plan)}
    sorts = [statement for statement, plan in plans.items() if "TEMP B-TREE" in plan]
    assert not [statement for statement in sorts if not FEW.search(statement)]
    by_place = [plan for plan in plans.values() if "UNION" in plan]
    assert all("MERGE (UNION)" in plan for plan in by_place)
    assert bool(by_place) == (calls is calls_of_tenants)
    live = [plan for statement, plan in plans.items() if statement.startswith("SELECT") and "NOT IN" in statement]
    assert not [plan for plan in live if "_seq (tenant=?)" in plan], "walks over what has ended"


async def test_what_the_driver_runs_is_told_of(tmp_path: Path) -> None:
    """Those who look at the statements of a call see them all: prepared ones go round SQLAlchemy."""
    ran: set[str] = set()

    def trace(connection: sqlite3.Connection, _: object) -> None:
        connection.set_trace_callback(ran.add)

    event.listen(Engine, "connect", trace)
    try:
        async with opened(tmp_path) as database:
            ran.clear()
            with statements() as told:
                await calls_of_tenants(database)
    finally:
        event.remove(Engine, "connect", trace)
    known = {_shape(statement) for statement in told}
    rest = {_shape(statement) for statement in ran if not _FRAME.match(statement)}
    assert len(known) > 20
    assert rest == known


def _shape(statement: str) -> str:
    """A statement without its values, in which the driver's trace has them filled in."""
    return re.sub(r"'(?:[^']|'')*'|-?\b\d+\b|\?|NULL", "_", statement)


@contextmanager
def statements() -> Iterator[dict[str, Any]]:
    """Fills the dictionary with statements that read or change rows, and values for each."""
    found: dict[str, Any] = {}

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
            found[statement] = parameters[0] if many else parameters

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)
