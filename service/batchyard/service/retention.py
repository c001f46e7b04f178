"""Deletes what has expired: first the row's mark, then the bytes, so that a crash in between loses nothing else.

A clock that jumps ahead makes everything look expired, and what is deleted is gone: then nothing expires until the
clock has stayed there for a while.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from batchyard.service.background import in_background
from batchyard.service.filestore import Part
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.registry.tenant import KEY_SECONDS
from batchyard.service.registry.work import WorkRegistry

_JUMP_SECONDS = 300.0  # a clock that is set right moves by less
_TRUST_SECONDS = 3600.0  # after which a time that it jumped to is believed
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
        steady: Callable[[], float],
        metrics: ServiceMetrics,
    ) -> None:
        """`steady` is a clock that never jumps."""
        self._work = work
        self._forget = forget
        self._seconds = seconds
        self._clock = clock
        self._steady = steady
        self._offset = clock() - steady()
        self._jumped_at: float | None = None
        self._expired = metrics.files_expired

    def running(self) -> AbstractAsyncContextManager[None]:
        """Looks until the context ends."""
        return in_background(self._loop())

    async def sweep(self) -> None:
        """One round; also finishes deletions that a crash interrupted."""
        now = int(self._clock())
        trusted = self._trusted()
        while trusted and (expired := await self._work.expire_files(now)):
            self._expired.inc(expired)
        while parts := await self._work.deleted_parts():
            await self._forget(parts)
        if trusted:
            await self._work.forget_files(now - _CURSOR_SECONDS)
            await self._work.forget_keys(now - KEY_SECONDS)

    def _trusted(self) -> bool:
        """Whether the clock has not jumped ahead lately; one that runs behind only makes files stay longer."""
        offset, steady = self._clock() - self._steady(), self._steady()
        if offset - self._offset <= _JUMP_SECONDS:
            self._offset, self._jumped_at = offset, None
            return True
        if self._jumped_at is None:
            self._jumped_at = steady
            _log.warning("the clock jumped ahead: nothing expires for now", extra={"seconds": offset - self._offset})
        if steady - self._jumped_at < _TRUST_SECONDS:
            return False
        self._offset, self._jumped_at = offset, None
        return True

    async def _loop(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception:
                _log.exception("sweep failed, will try again")
            await asyncio.sleep(self._seconds)
