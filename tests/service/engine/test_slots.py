"""The places of lines: how many an endpoint gets at once, and when it is left alone."""

import asyncio
from random import Random

import pytest
from tests.fakes import Going
from tests.harness import figures, until

from batchyard.service.engine.runners.slots import LineSlots

MOST = 8


class Earliest(Random):
    """Jitter at its least."""

    def uniform(self, a: float, b: float) -> float:
        return a


@pytest.fixture
def slots() -> LineSlots:
    return LineSlots(MOST, figures(), Earliest())


async def taken(slots: LineSlots, count: int) -> None:
    for _ in range(count):
        assert await slots.acquire(Going())


async def waiting(slots: LineSlots, count: int, control: Going) -> list[asyncio.Task[bool]]:
    """Tasks that want a place and have none yet."""
    tasks = [asyncio.create_task(slots.acquire(control)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def given(tasks: list[asyncio.Task[bool]]) -> int:
    return sum(task.done() for task in tasks)


async def limit(slots: LineSlots) -> int:
    """How many places there are now, where none is taken."""
    tasks = await waiting(slots, MOST + 1, Going())
    free = given(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(free):
        slots.release()
    return free


async def test_no_more_lines_run_than_there_are_places(slots: LineSlots) -> None:
    await taken(slots, MOST)
    tasks = await waiting(slots, 3, Going())
    assert given(tasks) == 0
    slots.release()
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True, False, False]  # who came first is served first
    for task in tasks:
        task.cancel()


async def test_too_much_halves_them_once_a_burst(slots: LineSlots) -> None:
    sent = slots.round
    await taken(slots, MOST)
    for _ in range(MOST):
        slots.limited(sent, "429")
        slots.release()
    assert await limit(slots) == MOST // 2
    assert slots.waiting is None


async def test_answers_give_one_more_for_each_round_of_them(slots: LineSlots) -> None:
    await taken(slots, MOST)
    slots.limited(slots.round, "429")
    for _ in range(MOST):
        slots.release()
    for size in range(MOST // 2, MOST):
        assert await limit(slots) == size
        for _ in range(size + 1):
            slots.answered(slots.round)
    assert await limit(slots) == MOST


async def test_there_is_always_one(slots: LineSlots) -> None:
    for _ in range(10):
        await taken(slots, 1)
        slots.answered(slots.round)
        slots.limited(slots.round, "429")
        slots.release()
    assert await limit(slots) == 1


async def test_one_line_tries_after_a_pause_and_all_follow_its_answer(slots: LineSlots) -> None:
    slots.hold(0.05, "it asks to wait")
    tasks = await waiting(slots, 4, Going())
    assert given(tasks) == 0

    async def running() -> int:
        return given(tasks)

    await until(running, lambda count: count > 0)
    assert given(tasks) == 1
    slots.answered(slots.round)
    await until(running, lambda count: count == 4)


async def test_a_try_that_fails_makes_the_next_pause_longer(slots: LineSlots) -> None:
    loop = asyncio.get_running_loop()
    pauses = []
    for _ in range(2):
        began = loop.time()
        slots.failed(slots.round, "it can't be reached")
        assert await slots.acquire(Going())
        pauses.append(loop.time() - began)
        slots.release()
    assert pauses[0] >= 0.5
    assert pauses[1] >= 2 * 0.5


async def test_what_was_sent_before_a_pause_does_not_end_it_or_make_it_longer(slots: LineSlots) -> None:
    sent = slots.round
    for _ in range(100):
        slots.failed(sent, "it can't be reached")
    slots.answered(sent)
    task, *_ = await waiting(slots, 1, Going())
    assert not task.done()
    async with asyncio.timeout(5):  # a hundredfold failure would make it a minute
        assert await task


async def test_a_line_that_tries_for_long_does_not_hold_up_another_try(slots: LineSlots) -> None:
    slots.hold(0.01, "it asks to wait")
    async with asyncio.timeout(10):
        await taken(slots, 2)


async def test_why_is_told_while_a_pause_lasts(slots: LineSlots) -> None:
    async def told() -> str | None:
        return slots.waiting

    assert await told() is None
    slots.hold(600, "it answers with HTTP status 503")
    assert await told() is None
    await until(told, lambda why: why == "waiting for the endpoint: it answers with HTTP status 503")
    slots.answered(slots.round)
    assert await told() is None


@pytest.mark.parametrize("delay", [0, 600])
async def test_a_stop_ends_every_wait_at_once(slots: LineSlots, delay: float) -> None:
    control = Going()
    await taken(slots, 1)
    slots.hold(600, "it asks to wait")
    again = asyncio.create_task(slots.again(control, delay))
    tasks = [again, *await waiting(slots, 2, control)]
    control.stop()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*tasks) == [False] * 3
    slots.release()
    slots.answered(slots.round)
    assert await limit(slots) == MOST


async def test_a_line_that_waits_gives_its_place_to_another(slots: LineSlots) -> None:
    await taken(slots, MOST)
    tasks = await waiting(slots, 1, Going())
    again = asyncio.create_task(slots.again(Going(), 0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert given(tasks) == 1
    assert not again.done()
    slots.release()
    assert await again


async def test_a_cancelled_wait_leaves_no_place_taken(slots: LineSlots) -> None:
    await taken(slots, MOST)
    first, second = await waiting(slots, 2, Going())
    slots.release()  # the first has a place, and does not know it yet
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    for _ in range(MOST - 1):
        slots.release()
    assert await limit(slots) == MOST
