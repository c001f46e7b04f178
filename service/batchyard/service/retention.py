"""Deletes what has expired: first the row's mark, then the bytes, so that a crash in between loses nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from batchyard.service.filestore import Part
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
        clock: Callable[[], float],
        metrics: ServiceMetrics,
    ) -> None:
        self._work = work
        self._forget = forget
        self._seconds = seconds
        self._clock = clock
        self._expired = metrics.files_expired

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._loop())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def sweep(self) -> None:
        """One round; also finishes deletions that a crash interrupted."""
        now = int(self._clock())
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
