"""The places of lines in flight: how many an endpoint gets at once, and when it gets none.

An endpoint that says that it gets too much (429) is given half of it, and then more again with every line that it
answers. One that can't be reached or takes nothing is left alone, all lines of all batches at once, for longer and
longer; after each pause one line tries, and the others follow when it is answered.
"""

import asyncio
import logging
from collections import deque
from contextlib import AbstractContextManager
from random import Random
from typing import Protocol

from batchyard.service.metrics import ServiceMetrics

_FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds; each may last half as long
LONGEST_HINT = 600.0  # seconds; an endpoint that asks to wait for longer is asked again after these
_PROBE_SECONDS = 2.0  # a line that tries may take long for its answer: after these another one tries too
_SOON_SECONDS = 1.0  # a shorter pause is nothing to tell anybody

_log = logging.getLogger("batchyard.lines")


class LineControl(Protocol):
    """What tells the lines of a batch whether they go on."""

    def go_on(self) -> bool: ...

    def interrupting(self, waiting: asyncio.Future[bool]) -> AbstractContextManager[None]:
        """A context in which `waiting` gets the result False as soon as the batch is stopped."""


class LineSlots:
    """Places for `most` lines at once. Who takes one gives it back with `release`.

    A call that is made notes `round` before, and says how it ended: what was sent before a pause says nothing of the
    time after it. `answers` counts the lines that were answered.
    """

    def __init__(self, most: int, metrics: ServiceMetrics, random: Random | None = None) -> None:
        self.round = 0
        self.answers = 0
        self._most = most
        self._limit = float(most)
        self._metrics = metrics
        self._random = random or Random()  # noqa: S311 - jitter
        self._running = 0
        self._peak = 0
        self._waiters: deque[asyncio.Future[bool]] = deque()
        self._failures = 0
        self._paused_since: float | None = None
        self._next_try = 0.0
        self._why = ""
        self._timer: asyncio.TimerHandle | None = None
        metrics.line_slots.set(most)

    @property
    def waiting(self) -> str | None:
        """Why no line runs now, where that lasts; None: lines run."""
        if self._paused_since is None or asyncio.get_running_loop().time() < self._paused_since + _SOON_SECONDS:
            return None
        return f"waiting for the endpoint: {self._why}"

    async def acquire(self, control: LineControl) -> bool:
        """Takes a place, after those who came before; False: the batch was stopped before there was one."""
        if not self._waiters and self._is_free():
            self._take()
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            with control.interrupting(waiter):
                return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.result():
                self.release()
            raise

    def release(self) -> None:
        self._running -= 1
        self._metrics.lines_running.dec()
        if self._waiters:
            self._wake()

    async def again(self, control: LineControl, delay: float) -> bool:
        """Gives a place to others for `delay` seconds at least, and takes one when it is this line's turn again.

        False: the batch was stopped. However it ends, the caller has a place to give back.
        """
        self.release()
        held = False
        try:
            held = (not delay or await _nap(control, delay)) and await self.acquire(control)
            return held
        finally:
            if not held:
                self._count()

    def answered(self, sent: int) -> None:
        """A line was answered that was `sent` in that round."""
        self.answers += 1
        if sent != self.round:
            return
        self._failures = 0
        if self._paused_since is not None:
            self._resume()
        if self._limit < self._most:
            self._set_limit(min(self._most, self._limit + 1 / self._limit))

    def limited(self, sent: int, why: str) -> None:
        """The endpoint says that it gets too much; for the second time in a row, it is left alone too."""
        if sent == self.round:
            self.round += 1
            self._failures += 1
            if self._paused_since is None:  # else it was one line alone that was too much
                self._set_limit(max(1.0, min(self._limit, self._peak) // 2))
                self._peak = self._running
            if self._failures > 1:
                self._pause(why)

    def failed(self, sent: int, why: str) -> None:
        """The endpoint can't be reached, or takes nothing now."""
        if sent == self.round:
            self.round += 1
            self._failures += 1
            self._pause(why)

    def hold(self, seconds: float, why: str) -> None:
        """The endpoint asks to be left alone."""
        self.round += 1
        self._leave_alone(min(seconds, LONGEST_HINT) + self._random.uniform(0, 0.25), why)

    def _pause(self, why: str) -> None:
        pause = min(LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 16)) * self._random.uniform(0.5, 1)
        self._leave_alone(pause, why)
        if self._failures == 2:
            _log.warning("the endpoint is left alone, and tried again later and later", extra={"why": why})

    def _leave_alone(self, seconds: float, why: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._paused_since is None:
            self._paused_since = now
        self._why = why
        self._next_try = max(self._next_try, now + seconds)
        self._wake_then()

    def _resume(self) -> None:
        seconds = asyncio.get_running_loop().time() - (self._paused_since or 0)
        if seconds > _SOON_SECONDS:
            _log.info("the endpoint answers again", extra={"seconds": round(seconds, 1)})
        self._paused_since = None
        self._next_try = 0.0
        self._wake()

    def _is_free(self) -> bool:
        if self._running >= int(self._limit):
            return False
        return self._paused_since is None or asyncio.get_running_loop().time() >= self._next_try

    def _count(self) -> None:
        self._running += 1
        self._metrics.lines_running.inc()

    def _take(self) -> None:
        self._count()
        self._peak = max(self._peak, self._running)
        if self._paused_since is not None:
            self._next_try = max(self._next_try, asyncio.get_running_loop().time() + _PROBE_SECONDS)
            self._wake_then()

    def _wake(self) -> None:
        while self._waiters:
            if self._waiters[0].done():
                self._waiters.popleft()
            elif self._is_free():
                self._take()
                self._waiters.popleft().set_result(True)
            else:
                break

    def _wake_then(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._next_try, self._wake_at_last)

    def _wake_at_last(self) -> None:
        """A timer may come a moment before its time."""
        self._timer = None
        self._wake()
        if self._waiters and self._timer is None and asyncio.get_running_loop().time() < self._next_try:
            self._wake_then()

    def _set_limit(self, limit: float) -> None:
        self._limit = limit
        self._metrics.line_slots.set(int(limit))


async def _nap(control: LineControl, seconds: float) -> bool:
    """Waits; False: the batch was stopped meanwhile."""
    waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    timer = asyncio.get_running_loop().call_later(seconds, _wake_up, waiter)
    try:
        with control.interrupting(waiter):
            return await waiter
    finally:
        timer.cancel()


def _wake_up(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(True)
