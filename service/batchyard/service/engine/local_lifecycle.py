"""The life of a batch whose lines the service runs itself, one committed step at a time (facts 2).

validating -> failed
validating -> in_progress -> finalizing -> completed | expired
validating | in_progress | finalizing -> cancelling -> cancelled
"""

import asyncio
import logging
from collections import deque
from functools import partial
from typing import Any, Protocol

from batchyard.service.background import every, in_background
from batchyard.service.domain.records import BatchRecord, Part, Status
from batchyard.service.engine.chunk_runner import ChunkRunner, Job
from batchyard.service.engine.control import Control, Drained
from batchyard.service.engine.transitions import Input, Steps
from batchyard.service.errors import DataLoss
from batchyard.service.jsonl.request_line import endpoint_of
from batchyard.service.registry.work import WorkRegistry

_SHOW_SECONDS = 0.5
_CHUNKS_AT_ONCE = 2  # the second fills the slots that the first one's last lines leave

_log = logging.getLogger("batchyard.engine")


class Lifecycle(Protocol):
    """How batches of one kind live."""

    async def advance(self, batch: BatchRecord, control: Control) -> BatchRecord:
        """A leased batch after its next step, which may be repeated.

        Raises LeaseLost where the batch moved on without us, and Drained.
        """


class LocalLifecycle:
    """A `Lifecycle`."""

    def __init__(
        self,
        work: WorkRegistry,
        steps: Steps,
        chunks: ChunkRunner,
        *,
        batch_slots: int,
    ) -> None:
        self._work = work
        self._steps = steps
        self._chunks = chunks
        self._slots = asyncio.Semaphore(batch_slots)

    async def advance(self, batch: BatchRecord, control: Control) -> BatchRecord:
        try:
            match batch.status:
                case Status.VALIDATING:
                    return await self._validate(batch, control)
                case Status.IN_PROGRESS:
                    return await self._run(batch, control)
                case Status.FINALIZING:
                    return await self._steps.complete(batch)
                case _:
                    return await self._cancel(batch, control)
        except DataLoss as error:
            return await self._steps.give_up(batch, error)

    async def _validate(self, batch: BatchRecord, control: Control) -> BatchRecord:
        found = await self._steps.input(batch)
        if found.errors:
            return await self._steps.fail(batch, found.errors)
        async with self._turn(control):
            return await self._plan(batch, found, status=Status.IN_PROGRESS, in_progress_at=self._steps.now(batch))

    async def _run(self, batch: BatchRecord, control: Control) -> BatchRecord:
        found = await self._steps.input(batch)
        async with self._turn(control):
            await self._run_chunks(batch, found.parts, control)
        return await self._steps.finalize(batch)

    async def _cancel(self, batch: BatchRecord, control: Control) -> BatchRecord:
        found = await self._steps.input(batch)
        if not batch.total and not found.errors:
            batch = await self._plan(batch, found)
        if batch.total:
            await self._run_chunks(batch, found.parts, control)
        return await self._steps.end(batch, Status.CANCELLED)

    def _turn(self, control: Control) -> "_Turn":
        return _Turn(self._slots, control)

    async def _plan(self, batch: BatchRecord, found: Input, **values: Any) -> BatchRecord:
        if found.scan is None:
            raise DataLoss("The input file's scan is missing.")
        planned = [
            {"n": n, "first_line": chunk.first_line, "start": chunk.offset, "end": chunk.offset + chunk.size}
            for n, chunk in enumerate(found.scan.chunks)
        ]
        return await self._steps.plan(batch, found.scan, planned, **values)

    async def _run_chunks(self, batch: BatchRecord, parts: list[Part], control: Control) -> None:
        if control.drained:
            raise Drained
        job = Job(batch, endpoint_of(batch.endpoint), parts, control)
        waiting = [chunk for chunk in await self._work.chunks(batch) if not chunk.sealed]
        remaining = iter(waiting)

        async def runner() -> None:
            for chunk in remaining:
                try:
                    await self._chunks.run_chunk(job, chunk)
                except Exception:
                    deque(remaining, maxlen=0)  # no more are begun; those that run end, for their lines are paid for
                    raise

        async with in_background(self._show_waits(batch, control)):
            ended = await asyncio.gather(*(runner() for _ in range(_CHUNKS_AT_ONCE)), return_exceptions=True)
        for failure in filter(None, ended):
            raise failure

    async def _show_waits(self, batch: BatchRecord, control: Control) -> None:
        """Writes down why no line of the batch runs, while that is so."""
        shown = batch.waiting

        async def show() -> None:
            nonlocal shown
            if control.go_on() and (why := self._chunks.waiting) != shown:
                await self._work.show_waiting(batch, why)
                shown = why

        await every(_SHOW_SECONDS, show, partial(_log.exception, "why a batch waits can't be shown, lines go on"))


class _Turn:
    """Waits for one of the places of running batches; a batch that is stopped needs none."""

    def __init__(self, slots: asyncio.Semaphore, control: Control) -> None:
        self._slots = slots
        self._control = control
        self._held = False

    async def __aenter__(self) -> None:
        self._held = await self._control.first(self._slots.acquire())
        if self._control.drained:
            await self.__aexit__()
            raise Drained

    async def __aexit__(self, *_: object) -> None:
        if self._held:
            self._slots.release()
            self._held = False
