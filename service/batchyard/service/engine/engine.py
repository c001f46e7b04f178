"""The embedded engine: tasks in this process that carry every live batch to its end, whatever was interrupted."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from random import uniform

from batchyard.service.background import until
from batchyard.service.domain.records import LIVE, BatchRecord
from batchyard.service.engine.control import Control, Drained
from batchyard.service.engine.local_lifecycle import Lifecycle
from batchyard.service.errors import LeaseLost
from batchyard.service.registry.change_feed import Changes
from batchyard.service.registry.work import WorkRegistry

LEASE_SECONDS = 60.0
_LOOK_SECONDS = 5.0  # how often a batch's row is read again without being told, while they are few
_FEW = 64
_SHORTEST_LOOK = 0.1
_RETRY_SECONDS = (0.5, 30.0)
_MOST_BATCHES = 8192  # held at once; those that run lines are fewer, and most wait for other machines
_MOST_CLAIMS = 64  # at once

_log = logging.getLogger("batchyard.engine")


class Engine:
    """Holds the leases of live batches and advances each in a task of its own.

    `wake` tells it of a new batch, `changed` of a batch whose row somebody else wrote.
    """

    def __init__(
        self,
        work: WorkRegistry,
        lives: Callable[[BatchRecord], Lifecycle],
        changes: Changes,
        clock: Callable[[], float],
        lease_seconds: float = LEASE_SECONDS,
        lent: Callable[[], AbstractContextManager[None]] = nullcontext,
        expiry: Callable[[], float] | None = None,
    ) -> None:
        """`lives` knows how a batch lives, `expiry` the time by which windows end, where that is not the clock's.

        `lent` is the reserve of a full disk, for stopped batches that could not be written off without.
        """
        self._work = work
        self._changes = changes
        self._lives = lives
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._lent = lent
        self._expiry = expiry or clock
        self._woken = asyncio.Event()
        self._controls: dict[str, Control] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._carried: set[tuple[int, int]] = set()  # seq and epoch of each batch that a task has
        self._claiming = asyncio.Lock()  # between a claim's commit and its tasks, what is carried is not known
        self._draining = False

    def wake(self) -> None:
        self._woken.set()

    def changed(self, batch: BatchRecord) -> None:
        """A caller changed a batch: `batch` is its row as it is now, and no further line of a stopped one begins."""
        self._changes.touch(batch.seq)
        control = self._controls.get(batch.id)
        if control:
            control.see(batch)
            control.changed.set()
        self.wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Takes over what the last process left, and works until the context ends."""
        await self._work.void_leases()
        loops = [asyncio.create_task(self._claim_loop()), asyncio.create_task(self._extend_loop())]
        try:
            yield
        finally:
            for task in [*loops, *self._tasks]:
                task.cancel()
            await asyncio.gather(*loops, *self._tasks, return_exceptions=True)

    def stop_lines(self) -> None:
        """Ends watches, and starts no more lines."""
        self._draining = True
        self._changes.stop()
        for control in self._controls.values():
            control.drain()

    async def drain(self, seconds: float) -> None:
        """Starts no more lines, and waits for those that run."""
        self.stop_lines()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _claim_loop(self) -> None:
        while not self._draining:
            self._woken.clear()
            if not await self._claim():
                await until(self._woken, self._lease_seconds / 2)

    async def _claim(self) -> bool:
        """Whether there may be more to claim."""
        room = min(_MOST_CLAIMS, _MOST_BATCHES - len(self._tasks))
        async with self._claiming:
            try:
                now = self._clock()
                claimed = await self._work.claim_batches(now, now + self._lease_seconds, room)
            except Exception:
                _log.exception("claiming failed")
                return False
            for batch in claimed:
                self._begin(batch)
        return 0 < room == len(claimed)

    def _begin(self, batch: BatchRecord) -> None:
        self._carried.add((batch.seq, batch.epoch))
        task = asyncio.create_task(self._carry(batch))
        self._tasks.add(task)
        task.add_done_callback(partial(self._note_end, batch))

    def _note_end(self, batch: BatchRecord, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._carried.discard((batch.seq, batch.epoch))
        error = None if task.cancelled() else task.exception()
        if error:
            _log.error("a batch is carried no more, will begin anew", exc_info=error, extra={"batch": batch.id})

    async def _extend_loop(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 4)
            try:
                await self._extend()
            except Exception:
                _log.exception("extending leases failed")

    async def _extend(self) -> None:
        """Extends our leases, and gives those back that no task has: it died, or a claim or a release half failed."""
        async with self._claiming:
            stranded = await self._work.give_back(frozenset(self._carried))
        if stranded:
            _log.warning("batches that no task has are given back", extra={"batches": stranded})
            self.wake()
        await self._work.extend(self._clock() + self._lease_seconds)

    async def _carry(self, batch: BatchRecord) -> None:
        """Advances a leased batch until it has ended, the lease is lost, or the process stops."""
        control = self._controls[batch.id] = Control(batch, self._expiry)
        if self._draining:
            control.drain()
        watcher = asyncio.create_task(self._watch(batch, control))
        try:
            await self._advance(batch, control)
        except LeaseLost:
            _log.info("lease lost", extra={"batch": batch.id})
        except Drained:
            await self._work.release(batch)
        finally:
            watcher.cancel()
            if self._controls.get(batch.id) is control:
                del self._controls[batch.id]
            self.wake()

    async def _advance(self, batch: BatchRecord, control: Control) -> None:
        failures = 0
        while batch.status in LIVE:
            before = batch.status
            try:
                with self._lent() if failures and control.reason else nullcontext():
                    batch = await (self._step_again if failures else self._step)(batch, control)
                failures = 0
            except (LeaseLost, Drained):
                raise
            except Exception:
                failures += 1
                _log.exception("batch is stuck, will try again", extra={"batch": batch.id, "failures": failures})
                await self._back_off(failures, control)
            if batch.status != before:
                _log.info("batch moved", extra={"batch": batch.id, "from": before, "to": batch.status})

    async def _step_again(self, batch: BatchRecord, control: Control) -> BatchRecord:
        """Like `_step`, from the batch as it is now: a part of the step that failed may have been committed."""
        batch = await self._work.reread(batch)
        return await self._step(batch, control) if batch.status in LIVE else batch

    async def _step(self, batch: BatchRecord, control: Control) -> BatchRecord:
        """The batch after its next step, or as somebody else left it. Raises LeaseLost where it is not ours."""
        try:
            return await self._lives(batch).advance(batch, control)
        except LeaseLost:
            found = await self._work.reread(batch)
        control.see(found)
        if found.status == batch.status:  # the batch is ours, one of its chunks is not yet
            await asyncio.sleep(_LOOK_SECONDS)
        return found

    async def _back_off(self, failures: int, control: Control) -> None:
        least, most = _RETRY_SECONDS
        delay = min(most, least * 2**failures) * uniform(0.5, 1)  # noqa: S311 - jitter
        await asyncio.sleep(delay)
        if control.drained:
            raise Drained

    async def _watch(self, batch: BatchRecord, control: Control) -> None:
        """Looks at the batch's row when told, now and then, and when its window ends."""
        while control.go_on():
            left = max(_SHORTEST_LOOK, batch.expires_at - self._expiry())
            share = max(1.0, len(self._controls) / _FEW)
            await until(control.changed, min(_LOOK_SECONDS * share, left))
            control.changed.clear()
            with suppress(Exception):  # the work itself meets the same failure, and reports it
                control.see(await self._work.reread(batch))
