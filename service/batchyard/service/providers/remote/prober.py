"""Asks deployments how they are while nobody else calls them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from random import Random

from batchyard.service.background import in_background
from batchyard.service.providers.remote.provider import RemoteProvider

_SOON = 0.1  # of an interval, after which each was probed first
_JITTER = 0.2
_DOUBLINGS = 3

_log = logging.getLogger("batchyard.probing")


class Prober:
    """Probes each provider of which nothing was heard for about `seconds`; one that fails, up to 8 times as rarely."""

    def __init__(
        self,
        providers: Iterable[RemoteProvider],
        seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._providers = tuple(providers)
        self._seconds = seconds
        self._sleep = sleep
        self._random = Random()  # noqa: S311 - jitter

    def running(self) -> AbstractAsyncContextManager[None]:
        """Probes until the context ends."""
        return in_background(self._all())

    async def _all(self) -> None:
        await asyncio.gather(*map(self._watch, self._providers))

    async def _watch(self, provider: RemoteProvider) -> None:
        await self._sleep(self._seconds * self._random.uniform(0, _SOON))
        failures = 0
        while True:
            pause = self._seconds * 2 ** min(failures, _DOUBLINGS) * self._random.uniform(1 - _JITTER, 1 + _JITTER)
            while (left := pause - provider.condition.age) > 0:
                await self._sleep(left)
            try:
                await provider.probe()
            except Exception:
                _log.exception("a probe failed, will try again", extra={"deployment": provider.place})
                await self._sleep(pause)
            failures = 0 if provider.available else failures + 1
