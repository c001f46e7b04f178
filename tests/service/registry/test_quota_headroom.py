"""Limits of creations: that not each one counts all rows lets nobody exceed them, whatever else happens meanwhile."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine
from tests.registries import a_batch, opened

from batchyard.service.config.settings import Quotas, Rate
from batchyard.service.domain.quotas import Bound
from batchyard.service.domain.records import Status
from batchyard.service.errors import Busy, Unavailable
from batchyard.service.registry.base import REGISTRY
from batchyard.service.registry.deployment import RemoteRegistry
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.usage import UsageEstimate
from batchyard.service.registry.work import WorkRegistry

NOW = 1_000_000


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with opened(tmp_path) as database:
        yield database


def bounded(database: SqliteDatabase, **quotas: int) -> TenantRegistry:
    return TenantRegistry(database, "a", bounds=[Bound(Quotas(**quotas), "a")])


async def create(owner: TenantRegistry, number: int, rate: Rate | None = None, now: int = NOW) -> None:
    await owner.add_batch(a_batch(number, created_at=now), rate=rate, estimate=UsageEstimate(10, 1))


async def end(database: SqliteDatabase, number: int, **used: int) -> None:
    """Batch `number`, which is the oldest that has not ended, ends having used so much."""
    work = WorkRegistry(database, "w")
    (batch,) = await work.claim_batches(NOW, NOW + 60)
    assert batch.id == f"batch_{number}"
    await work.finish(batch, [], status=Status.COMPLETED, **used)


@pytest.mark.parametrize(
    "quotas", [{"batches_in_flight": 50}, {"enqueued_tokens": 500}, {"lines_per_day": 50}, {"tokens_per_day": 500}]
)
async def test_as_many_as_allowed_and_few_counts(database: SqliteDatabase, quotas: dict[str, int]) -> None:
    owner = bounded(database, **quotas)
    with sums() as counted:
        for number in range(50):
            await create(owner, number)
    assert len(counted) == 1
    with pytest.raises(Busy, match="Used 50"):
        await create(owner, 50)


async def test_a_rate_holds_to_the_last(database: SqliteDatabase) -> None:
    owner, rate = TenantRegistry(database, "a"), Rate(16, 3600)
    for number in range(16):
        await create(owner, number, rate)
    with pytest.raises(Busy, match="at most 16"):
        await create(owner, 16, rate)
    await create(owner, 16, rate, NOW + 3600)


async def test_what_was_given_up_can_be_used_again(database: SqliteDatabase) -> None:
    owner = bounded(database, batches_in_flight=2)
    for number in range(2):
        await create(owner, number)
    await end(database, 0)
    await create(owner, 2)
    with pytest.raises(Busy, match="Used 2"):
        await create(owner, 3)


async def test_a_batch_that_used_more_than_reckoned_leaves_less(database: SqliteDatabase) -> None:
    owner = bounded(database, tokens_per_day=100)
    await create(owner, 0)
    await end(database, 0, input_tokens=50, output_tokens=45)
    with pytest.raises(Busy, match="Used 95"):
        await create(owner, 1)


async def test_a_batch_that_was_made_elsewhere_leaves_less(database: SqliteDatabase) -> None:
    owner = bounded(database, batches_in_flight=2)
    await create(owner, 0)
    await RemoteRegistry(database, "west", lambda _: None).adopt_batch("a", "native", a_batch(1))
    with pytest.raises(Busy, match="Used 2"):
        await create(owner, 2)


async def test_a_clock_put_back_makes_it_count_again(database: SqliteDatabase) -> None:
    owner, day = bounded(database, lines_per_day=2), 86_400
    await create(owner, 0)
    await create(owner, 1, now=NOW + 2 * day)
    with pytest.raises(Busy, match="Used 1"):
        await owner.add_batch(a_batch(2, created_at=NOW), estimate=UsageEstimate(0, 2))


async def test_what_was_not_committed_is_not_believed(database: SqliteDatabase) -> None:
    """A batch that ended and a count without it, in a commit that failed."""
    owner, work = bounded(database, enqueued_tokens=30), WorkRegistry(database, "w")
    for number in range(3):
        await create(owner, number)
    small = owner.add_batch(a_batch(3), estimate=UsageEstimate(5, 1))
    (batch,) = await work.claim_batches(NOW, NOW + 60)
    held, gate = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        held.set()
        gate.wait(10)

    def fail(_: Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    first = asyncio.create_task(database.write(hold, REGISTRY))
    await asyncio.to_thread(held.wait, 10)
    writes = [work.finish(batch, [], status=Status.COMPLETED), small, database.write(fail, REGISTRY)]
    tasks = [asyncio.create_task(write) for write in writes]
    await asyncio.sleep(0)  # each runs up to its place in the writer's queue
    gate.set()
    assert [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == [Unavailable] * 3
    await first
    with pytest.raises(Busy, match="Used 30, Requested 5"):
        await owner.add_batch(a_batch(3), estimate=UsageEstimate(5, 1))


@contextmanager
def sums() -> Iterator[list[str]]:
    """Fills the list with statements that count rows."""
    found: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "count(*)" in statement and "FROM batches" in statement:
            found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)
