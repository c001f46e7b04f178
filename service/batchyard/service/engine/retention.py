"""Deletes what has expired: first the row's mark, then the bytes, so that a crash in between loses nothing else."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from batchyard.common.clock import GuardedClock
from batchyard.service.background import in_background
from batchyard.service.domain.records import Part
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.registry.tenant import KEY_SECONDS
from batchyard.service.registry.work import WorkRegistry

_CURSOR_SECONDS = 7 * 86_400  # how long a deleted file's row serves as the cursor of a list

_log = logging.getLogger("batchyard.retention")


class Retention:
    """Looks every `seconds` for files whose `expires_at` has passed; a file that a live batch reads waits."""

    def __init__(
        self,
        work: WorkRegistry,
        forget: Callable[[list[Part]], Awaitable[None]],
        seconds: float,
        clock: GuardedClock,
        metrics: ServiceMetrics,
    ) -> None:
        """`forget` removes objects for good."""
        self._work = work
        self._forget = forget
        self._seconds = seconds
        self._clock = clock
        self._expired = metrics.files_expired
        self._held = metrics.clock_held

    def running(self) -> AbstractAsyncContextManager[None]:
        """Looks until the context ends."""
        return in_background(self._loop())

    async def sweep(self) -> None:
        """One round; also finishes deletions that a crash interrupted."""
        now = int(self._clock.removal())
        self._held.set(self._clock.is_held)
        while expired := await self._work.expire_files(now):
            self._expired.inc(expired)
        while parts := await self._work.deleted_parts():
            await self._forget(parts)
        await self._work.forget_files(now - _CURSOR_SECONDS)
        await self._work.forget_keys(now - KEY_SECONDS)

    async def _loop(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception:
                _log.exception("sweep failed, will try again")
            await asyncio.sleep(self._seconds)
