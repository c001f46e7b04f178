import asyncio

from tests.harness import until

from batchyard.service.groups.queue import FairQueue


async def test_the_oldest_that_waits_is_next() -> None:
    turns, order, gate = FairQueue(), list[int](), asyncio.Event()

    async def take(number: int) -> None:
        async with turns.turn(number):
            order.append(number)
            await gate.wait()

    first = asyncio.create_task(take(9))
    await until(lambda: asyncio.sleep(0, order), bool)
    others = [asyncio.create_task(take(number)) for number in (5, 3, 8)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *others)
    assert order == [9, 3, 5, 8]


async def taken(turns: FairQueue, number: int) -> int:
    async with turns.turn(number):
        return number


async def test_one_that_leaves_while_it_waits_keeps_nobody_waiting() -> None:
    turns = FairQueue()
    async with turns.turn(0):
        leaving, staying = asyncio.create_task(taken(turns, 1)), asyncio.create_task(taken(turns, 2))
        await asyncio.sleep(0)
        leaving.cancel()
    assert await staying == 2


async def test_one_that_leaves_as_its_turn_comes_passes_it_on() -> None:
    turns = FairQueue()
    async with turns.turn(0):
        leaving, staying = asyncio.create_task(taken(turns, 1)), asyncio.create_task(taken(turns, 2))
        await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == 2
    async with turns.turn(3):
        pass
