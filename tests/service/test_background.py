"""Waiting beside the calls."""

import asyncio

import pytest

from batchyard.service.background import until


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
