"""What a batch's running work must know: whether it goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from batchyard.service.domain.records import BatchRecord, Status
from batchyard.service.jsonl.results import CANCELLED, EXPIRED, Failure

T = TypeVar("T")


class Drained(Exception):
    """The process stops: what is left of the work is for the next one."""


class Control:
    """Tells the work on one batch whether to start lines, and what becomes of those that are not started."""

    def __init__(self, batch: BatchRecord, clock: Callable[[], float]) -> None:
        self.reason: Failure | None = None
        self.drained = False
        self.changed = asyncio.Event()  # set from outside: the batch's row is worth another look
        self._clock = clock
        self._stopped = asyncio.Event()
        self._running: set[asyncio.Timeout] = set()
        self._waiting: set[asyncio.Future[bool]] = set()
        self.see(batch)

    def see(self, batch: BatchRecord) -> None:
        """Takes note of the batch's row, and of the time."""
        if batch.status == Status.CANCELLING:
            self.reason = CANCELLED
        elif self._clock() >= batch.expires_at and self.reason is None:
            self.reason = EXPIRED
            for bound in self._running:
                bound.reschedule(0)  # at once
        if self.reason:
            self._stop()

    def drain(self) -> None:
        self.drained = True
        self._stop()

    def go_on(self) -> bool:
        return not self._stopped.is_set()

    async def before_expiry(self, line: Coroutine[Any, Any, T]) -> T | None:
        """What a line in flight comes to, or None where the end of the batch's window cut it off."""
        bound = asyncio.timeout(None)
        try:
            async with bound:
                self._running.add(bound)
                return await line
        except TimeoutError:
            return None
        finally:
            self._running.discard(bound)

    @contextmanager
    def interrupting(self, waiting: asyncio.Future[bool]) -> Iterator[None]:
        """A context in which `waiting` gets the result False as soon as the batch is stopped."""
        self._waiting.add(waiting)
        if self._stopped.is_set():
            self._stop()
        try:
            yield
        finally:
            self._waiting.discard(waiting)

    async def first(self, waiting: Awaitable[Any]) -> bool:
        """Whether `waiting` ended; it is cancelled when the batch is stopped before."""
        tasks = [asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopped.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].done()
        finally:
            for task in tasks:
                task.cancel()

    def _stop(self) -> None:
        self._stopped.set()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(False)


@asynccontextmanager
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the first failure itself rather than a group of them."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        failure: BaseException = failures
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from None
