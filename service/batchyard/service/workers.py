"""Threads for one kind of work each, so that what must be quick never waits behind what takes long."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

Run = Callable[..., Coroutine[Any, Any, Any]]
"""Runs a function with its arguments in a thread, and returns what it returns."""


class Workers:
    """At most `count` threads. Owners whose work waits get them by turns, however much of it each has.

    Used from one event loop; `close` it when the last work has ended.
    """

    def __init__(self, name: str, count: int) -> None:
        self._free = count
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by owner, who comes next first
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"asyncio_{name}")

    async def run(self, work: Callable[..., T], *args: Any, owner: str = "") -> T:
        """What `work(*args)` returns. A caller that is cancelled doesn't stop work that has begun."""
        await self._turn(owner)
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        except BaseException:
            self._pass_on()
            raise
        running.add_done_callback(self._pass_on)
        return await running

    def close(self) -> None:
        """Waits for work that has begun, and ends the threads."""
        self._threads.shutdown(cancel_futures=True)

    async def _turn(self, owner: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had come already
                self._pass_on()
            raise

    def _pass_on(self, _: Any = None) -> None:
        while self._waiting:
            owner = next(iter(self._waiting))
            turns = self._waiting.pop(owner)
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
