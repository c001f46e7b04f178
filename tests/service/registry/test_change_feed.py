"""Many watchers of one batch: one read for all of them at each change, and the latest state for who is slow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from operator import eq
from typing import Any

import pytest
from msgspec import structs
from tests.harness import PATIENCE, until

from batchyard.service.domain.records import BatchRecord
from batchyard.service.errors import NotFound, Unauthenticated, Unavailable
from batchyard.service.registry.change_feed import BatchState, Changes, Watches
from batchyard.service.registry.tenant import no_batch

MANY = 500
GIVEN = {"seq": 7, "id": "batch_1", "tenant": "team", "provider": "local", "status": "in_progress", "completed": 0}
EMPTY: dict[str, Any] = dict.fromkeys(BatchRecord.__struct_fields__)
BATCH = BatchRecord(**(EMPTY | GIVEN))


class Registry:
    """One batch, and how often it was read for all and for each watcher by itself."""

    def __init__(self) -> None:
        self.batch = BATCH
        self.reads = 0
        self.own_reads = 0
        self.seen = True
        self.error: Exception | None = None
        self.changes = Changes()
        self.watches = Watches(self.changes, self.read)

    async def read(self, _: BatchRecord) -> BatchState:
        self.reads += 1
        if self.error:
            raise self.error
        await asyncio.sleep(0)
        return BatchState(self.batch, ())

    async def get_batch(self, batch_id: str, provider: str = "") -> BatchRecord:
        """As the registry of a watcher's tenant has it."""
        self.own_reads += 1
        if not self.seen:
            raise no_batch(batch_id)
        return self.batch

    def write(self, **values: Any) -> None:
        self.batch = structs.replace(self.batch, **values)
        self.changes.touch(self.batch.seq)

    def watch(self, check: Any = None) -> Any:
        async def allowed() -> None:
            if check:
                check()

        owner: Any = self
        return self.watches.states(owner, BATCH.id, "", allowed)


async def soon(states: AsyncIterator[BatchState]) -> BatchState:
    async with asyncio.timeout(PATIENCE):
        return await anext(states)


async def test_one_read_serves_all_watchers_of_a_batch() -> None:
    registry = Registry()
    shown: list[list[int]] = [[] for _ in range(MANY)]

    async def watch(states: list[int]) -> None:
        async for batch, _ in registry.watch():
            states += [batch.completed]

    async def fewest() -> int:
        """The state that all watchers have at least seen."""
        return min(states[-1] if states else -1 for states in shown)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for states in shown:
            group.create_task(watch(states))
        for completed in range(10):
            registry.write(completed=completed)
            await until(fewest, partial(eq, completed), every=0.001)
            assert registry.reads <= 2 * (completed + 1)
        registry.write(completed=10, status="completed")
    assert [states[-1] for states in shown] == [10] * MANY
    assert registry.own_reads == MANY
    assert registry.reads <= 22


async def test_a_slow_watcher_gets_the_latest_state_and_no_other() -> None:
    registry = Registry()
    async with aclosing(registry.watch()) as slow, aclosing(registry.watch()) as quick:
        await soon(slow)
        assert (await soon(quick)).batch.completed == 0
        for completed in range(1, 100):
            registry.write(completed=completed)
            assert (await soon(quick)).batch.completed == completed
        assert (await soon(slow)).batch.completed == 99


async def test_a_change_before_the_first_look_is_not_missed() -> None:
    """The row is newer than what the others were shown, and nobody has said so yet."""
    registry = Registry()
    async with aclosing(registry.watch()) as first:
        await soon(first)
        registry.batch = structs.replace(BATCH, completed=5)
        async with aclosing(registry.watch()) as second:
            assert (await soon(second)).batch.completed == 5


async def test_nothing_is_read_when_nobody_watches_any_more() -> None:
    registry = Registry()
    async with aclosing(registry.watch()) as only:
        await soon(only)
    reads = registry.reads
    for completed in range(3):
        registry.write(completed=completed)
        await asyncio.sleep(0)
    assert registry.reads == reads
    async with aclosing(registry.watch()) as again:
        assert (await soon(again)).batch.completed == 2


async def test_a_key_that_ends_ends_its_own_watch_alone() -> None:
    registry, works = Registry(), True

    def check() -> None:
        if not works:
            raise Unauthenticated("This API key has expired.")

    async with aclosing(registry.watch(check)) as ending, aclosing(registry.watch()) as other:
        await soon(ending)
        await soon(other)
        works = False
        registry.changes.wake()
        with pytest.raises(Unauthenticated):
            await soon(ending)
        registry.write(completed=1)
        assert (await soon(other)).batch.completed == 1


async def test_a_batch_that_goes_to_a_place_kept_from_a_watcher_is_not_found() -> None:
    registry = Registry()
    async with aclosing(registry.watch()) as states:
        await soon(states)
        registry.seen = False
        registry.write(deployment="east")
        with pytest.raises(NotFound):
            await soon(states)


async def test_a_registry_that_cannot_be_read_ends_all_watches_and_watching_again_goes_on() -> None:
    registry = Registry()
    async with aclosing(registry.watch()) as one, aclosing(registry.watch()) as other:
        await soon(one)
        await soon(other)
        registry.error = Unavailable("The registry can't be read.")
        registry.write(completed=1)
        for states in (one, other):
            with pytest.raises(Unavailable):
                await soon(states)
    registry.error = None
    async with aclosing(registry.watch()) as again:
        assert (await soon(again)).batch.completed == 1


async def test_a_stop_ends_every_watch_once_it_has_seen_the_last_state() -> None:
    registry = Registry()
    async with aclosing(registry.watch()) as states:
        await soon(states)
        registry.write(completed=9)
        registry.changes.stop()
        assert (await soon(states)).batch.completed == 9
        with pytest.raises(Unavailable):
            await soon(states)
