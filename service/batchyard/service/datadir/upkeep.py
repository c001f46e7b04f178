"""What a data directory needs now and then while a service runs on it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

from batchyard.common.clock import GuardedClock
from batchyard.service.background import in_background
from batchyard.service.datadir.aside import Aside
from batchyard.service.datadir.pairing import Pair
from batchyard.service.errors import StorageFull

SECONDS = 60.0

_log = logging.getLogger("batchyard.datadir")


class Upkeep:
    """Begins a generation of the registry each minute, and counts the age of what was moved aside."""

    def __init__(self, pair: Pair, aside: Aside, clock: GuardedClock, steady: Callable[[], float]) -> None:
        self._pair = pair
        self._aside = aside
        self._clock = clock
        self._steady = steady
        self._at = steady()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Goes on until the context ends."""
        return in_background(self._loop())

    async def turn(self) -> None:
        """One round."""
        before, self._at = self._at, self._steady()
        with suppress(StorageFull):  # then the pair stays of the generation that it is of
            await self._pair.advance(int(self._clock.newest()))
        await asyncio.to_thread(self._aside.grow, self._at - before)

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(SECONDS)
            try:
                await self.turn()
            except Exception:
                _log.exception("upkeep of the data directory failed, will try again")
