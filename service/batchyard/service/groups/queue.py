"""Who places lines next in a group: the oldest batch that waits, so that large ones are not passed for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush


class FairQueue:
    """A lock that goes to the waiter with the lowest number."""

    def __init__(self) -> None:
        self.held = False
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    @asynccontextmanager
    async def turn(self, number: int) -> AsyncIterator[None]:
        await self._take(number)
        try:
            yield
        finally:
            self._pass_on()

    async def _take(self, number: int) -> None:
        if not self.held:
            self.held = True
            return
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heappush(self._waiting, (number, self._count, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it was ours already
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            *_, future = heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                return
        self.held = False
