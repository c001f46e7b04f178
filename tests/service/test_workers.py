"""Threads of their own: owners get them by turns, and nothing waits for what other threads are busy with."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import Kind
from batchyard.service.engine.journal import Journal
from batchyard.service.jsonl.results import Result, Tokens
from batchyard.service.workers import Workers


@pytest.fixture
def one() -> Iterator[Workers]:
    workers = Workers("test", 1)
    yield workers
    workers.close()


class Busy:
    """Work that lasts until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        self.go_on.wait(30)


@asynccontextmanager
async def busy(workers: Workers, owner: str = "first") -> AsyncIterator[Busy]:
    """While its only thread is busy."""
    work = Busy()
    task = asyncio.create_task(workers.run(work, owner=owner))
    await asyncio.to_thread(work.begun.wait, 30)
    try:
        yield work
    finally:
        work.go_on.set()
        await task


async def test_work_returns_and_raises_what_it_does(one: Workers) -> None:
    assert await one.run(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await one.run(divmod, 7, 0)
    assert await one.run(divmod, 7, 3, owner="other") == (2, 1)


async def test_owners_get_the_threads_by_turns_however_much_each_has(one: Workers) -> None:
    done: list[str] = []
    async with busy(one):
        wanted = [
            (owner, number) for owner, count in (("greedy", 5), ("modest", 2), ("late", 1)) for number in range(count)
        ]
        tasks = [asyncio.create_task(one.run(done.append, f"{owner}{number}", owner=owner)) for owner, number in wanted]
        await asyncio.sleep(0)  # each has asked now
        assert done == []
    await asyncio.gather(*tasks)
    assert done == ["greedy0", "modest0", "late0", "greedy1", "modest1", "greedy2", "greedy3", "greedy4"]


async def test_who_gives_up_waiting_keeps_nobody_from_a_thread(one: Workers) -> None:
    async with busy(one):
        waiting = [asyncio.create_task(one.run(divmod, 7, 3, owner=owner)) for owner in ("a", "a", "b")]
        await asyncio.sleep(0)
        for task in waiting[:2]:
            task.cancel()
    assert await waiting[2] == (2, 1)
    assert await one.run(divmod, 9, 3) == (3, 0)


async def test_who_gives_up_when_it_is_its_turn_passes_the_thread_on(one: Workers) -> None:
    async with busy(one) as work:
        first, second = (asyncio.create_task(one.run(divmod, 7, 3, owner=owner)) for owner in ("a", "b"))
        await asyncio.sleep(0)
        work.go_on.set()
        asyncio.get_running_loop().call_soon(first.cancel)
    assert await second == (2, 1)
    assert await one.run(divmod, 9, 3) == (3, 0)


async def test_work_of_a_caller_that_left_ends_before_other_work_begins(one: Workers) -> None:
    work = Busy()
    left = asyncio.create_task(one.run(work))
    await asyncio.to_thread(work.begun.wait, 30)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    ended: list[bool] = []
    other = asyncio.create_task(one.run(lambda: ended.append(work.go_on.is_set())))
    await asyncio.sleep(0)
    work.go_on.set()
    await other
    assert ended == [True]


async def test_a_result_is_synced_while_all_shared_threads_are_busy(tmp_path: Path, one: Workers) -> None:
    work = Busy()
    shared = [asyncio.create_task(asyncio.to_thread(work.go_on.wait, 30)) for _ in range(64)]
    try:
        journal = await Journal.open(tmp_path / "1.journal", Disk(), [], one.run)
        await journal.append(Result(1, Kind.COMPLETED, Tokens(), b"{}\n"))
        await journal.drain()
        assert journal.counts.completed == 1
        assert not any(task.done() for task in shared)
        await journal.close()
    finally:
        work.go_on.set()
        await asyncio.gather(*shared)
