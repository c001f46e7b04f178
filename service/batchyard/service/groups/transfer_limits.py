"""Places for the files of shards that are on their way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Transfers:
    """At most so many at once; inputs for one deployment take half of the places, so that one that hangs holds no other
    up.
    """

    def __init__(self, most: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._half = max(1, most // 2)
        self._inputs: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def sending(self, deployment: str) -> AsyncIterator[None]:
        """Holds a place for an input."""
        async with self._inputs.setdefault(deployment, asyncio.Semaphore(self._half)), self._all:
            yield

    @asynccontextmanager
    async def fetching(self) -> AsyncIterator[None]:
        """Holds a place for results."""
        async with self._all:
            yield
