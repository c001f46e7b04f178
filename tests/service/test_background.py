"""Waiting beside the calls."""

import asyncio
from collections import deque

import pytest
from tests import harness

from batchyard.service.background import every, in_background, until


@pytest.mark.parametrize("ticks", range(4))
async def test_a_cancel_in_the_moment_of_the_event_is_not_lost(ticks: int) -> None:
    event = asyncio.Event()
    task = asyncio.create_task(until(event, 60))
    await asyncio.sleep(0)
    event.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    if task.cancel():
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_it_waits_no_longer_than_told() -> None:
    await until(asyncio.Event(), 0.001)


async def test_what_is_done_again_and_again_outlives_its_failures_and_tells_of_each_kind_once() -> None:
    outcomes = deque([ValueError("one"), ValueError("two"), None, KeyError("three"), None])
    told, rounds = [], 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if outcomes and (error := outcomes.popleft()):
            raise error

    async def done() -> int:
        return rounds

    async with in_background(every(0.001, work, lambda: told.append(rounds))):
        await harness.until(done, lambda count: count >= 6)
    assert told == [1, 4]
