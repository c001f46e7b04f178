"""Work that goes on beside the calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` until the context ends, which cancels it and waits for it."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def every(seconds: float, work: Callable[[], Awaitable[None]], failed: Callable[[], None]) -> None:
    """Runs `work` after each pause, until it is cancelled. A failure is told to `failed`, with it as the exception that
    is being handled, once until `work` succeeds again; it ends nothing.
    """
    failing = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
            failing = False
        except Exception:
            if not failing:
                failed()
            failing = True


async def until(event: asyncio.Event, seconds: float) -> None:
    """Waits for `event`, for so long at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def to_the_end(operation: Awaitable[T]) -> T:
    """Awaits an operation that goes on in a thread whatever becomes of the caller.

    A cancelled caller learns of it afterwards, so that what it cleans up holds still.
    """
    task = asyncio.ensure_future(operation)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()
    raise cancelled


class Mutations:
    """Tasks that the service owns; `drained` waits for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, change: Coroutine[Any, Any, T]) -> T:
        """What `change` returns; a cancelled caller leaves it running."""
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def drained(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone; then nobody else asks
