"""Runs one chunk of a batch: every line of it ends as one line of a sealed output or error segment."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from batchyard.common.tracing import OFF, Tracing
from batchyard.service.background import every, in_background
from batchyard.service.datadir.disk import Disk
from batchyard.service.datadir.journals import journal_files
from batchyard.service.domain.records import BatchRecord, ChunkRecord, Kind, Part
from batchyard.service.engine.control import Control, Drained, tasks
from batchyard.service.engine.journal import Journal
from batchyard.service.engine.result_objects import ERROR, OUTPUT, segments
from batchyard.service.engine.runners.base import LineRunner
from batchyard.service.engine.runners.http import STATEFUL
from batchyard.service.errors import DataLoss
from batchyard.service.jsonl.request_line import Request, lines
from batchyard.service.jsonl.results import LOST, Result, result, result_id
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.objects.base import ObjectStore
from batchyard.service.registry.work import WorkRegistry
from batchyard.service.workers import Workers

_PUBLISH_SECONDS = 0.25
_ENDINGS = 4  # chunks of stopped batches that are written off at once: each is in memory
_JOURNAL_THREADS, _READ_THREADS = 4, 2

_log = logging.getLogger("batchyard.engine")


class Job(NamedTuple):
    """A batch as its chunks need it. `endpoint` has its /v1."""

    batch: BatchRecord
    endpoint: str
    parts: list[Part]
    control: Control


class ChunkRunner:
    """Runs chunks of any batches; the places of `runner` bound the lines in flight over all of them.

    `folder` holds the journals, which only this data directory's process touches.
    """

    def __init__(
        self,
        work: WorkRegistry,
        store: ObjectStore,
        disk: Disk,
        folder: Path,
        runner: LineRunner,
        metrics: ServiceMetrics,
        tracing: Tracing = OFF,
        *,
        line_seconds: float,
        lease_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._work = work
        self._store = store
        self._disk = disk
        self._folder = folder
        self._journals, self._readers = Workers("journal", _JOURNAL_THREADS), Workers("chunk-read", _READ_THREADS)
        self._runner = runner
        self._lines = metrics.lines("local")
        self._tracing = tracing
        self._endings = asyncio.Semaphore(_ENDINGS)
        self._line_seconds = line_seconds
        self._lease_seconds = lease_seconds
        self._clock = clock

    @property
    def waiting(self) -> str | None:
        """Why no line of any batch runs now; None: lines run."""
        return self._runner.slots.waiting

    def close(self) -> None:
        """Ends the threads: those of the journals, in which no result waits for other work, and those that read."""
        self._journals.close()
        self._readers.close()

    async def run_chunk(self, job: Job, chunk: ChunkRecord) -> None:
        """Takes the chunk's lease, runs the lines that no earlier epoch has, seals them and commits.

        Raises LeaseLost where somebody else has the chunk, DataLoss where the input is damaged (the results that it has
        are sealed), StorageFull, Drained.
        """
        async with self._endings if job.control.reason else nullcontext():
            created = (("traceparent", job.batch.traceparent),) if job.batch.traceparent else ()
            with self._tracing.span("run chunk", "internal", created) as span:
                span.mark(batchyard__chunk=chunk.n)
                await self._run_claimed(job, chunk)

    async def _run_claimed(self, job: Job, chunk: ChunkRecord) -> None:
        now = self._clock()
        chunk = await self._work.claim_chunk(chunk, now, now + self._lease_seconds)
        async with self._journal(job.batch.id, chunk) as journal:
            try:
                async with in_background(self._show_progress(chunk, journal)):
                    await self._run_lines(job, chunk, journal)
            except DataLoss:  # the results that there are are all that there will be
                await self._end(job, chunk, journal)
                raise
            await self._end(job, chunk, journal)

    async def _end(self, job: Job, chunk: ChunkRecord, journal: Journal) -> None:
        await journal.drain()
        await self._seal(job, chunk, journal)
        await self._journals.run(journal.remove)

    @asynccontextmanager
    async def _journal(self, batch_id: str, chunk: ChunkRecord) -> AsyncIterator[Journal]:
        run = self._journals.run
        journals, _ = await run(journal_files, self._folder)
        earlier = [one.path for one in journals if one.chunk == (batch_id, chunk.n)]
        path = self._folder / f"{batch_id}.{chunk.n}.{token_hex(8)}.journal"
        journal = await Journal.open(path, self._disk, earlier, run)
        try:
            yield journal
        finally:
            await journal.close()

    async def _run_lines(self, job: Job, chunk: ChunkRecord, journal: Journal) -> None:
        pieces = self._store.read(job.parts, chunk.start, chunk.end - chunk.start)
        data = b"".join([piece async for piece in pieces])
        missing = await self._readers.run(_missing, data, chunk.first_line, journal, owner=job.batch.tenant)
        if journal.gaps and job.endpoint in STATEFUL:
            missing = await self._write_off(job, missing, journal)
        if missing and job.control.go_on():
            await self._store.check_space()  # without room, answers would be paid for and lost
        failures: list[Exception] = []
        async with tasks() as group:
            for request in missing:
                if job.control.go_on() and await self._runner.slots.acquire(job.control):
                    line = group.create_task(self._run_line(job, request, journal, failures))
                    line.add_done_callback(self._free_slot)  # also of a task that is cancelled before its first step
                else:
                    await self._not_run(job, request, journal)
                if failures:
                    break
        if failures:  # lines that were in flight then have ended, for they are paid for
            raise failures[0]
        if job.control.drained:
            raise Drained

    async def _write_off(self, job: Job, missing: Sequence[Request], journal: Journal) -> list[Request]:
        """Gives lines whose results were damaged an error; the others, which never ran, are returned.

        Where it can't be told which lines those were, it may have been any: none of them runs a second time.
        """
        by_id = {result_id(job.batch.id, request.line_number): request.line_number for request in missing}
        numbers = set(by_id.values())
        lost: set[int] = set()
        for gap in journal.gaps:
            known = gap.lines | {by_id[one] for one in gap.ids if one in by_id}
            lost |= known & numbers if known or gap.ids else numbers
        for request in missing:
            if request.line_number in lost:
                await self._keep(journal, result(job.batch.id, request.line_number, request.custom_id, LOST))
        return [request for request in missing if request.line_number not in lost]

    def _free_slot(self, _: asyncio.Task[None]) -> None:
        self._runner.slots.release()

    async def _run_line(self, job: Job, request: Request, journal: Journal, failures: list[Exception]) -> None:
        """Journals what the line comes to; where its call fails by our own fault, that is added to `failures`.

        Raises what the journal raises: of a journal that failed, the results of other lines are lost too.
        """
        until = asyncio.get_running_loop().time() + self._line_seconds
        call = self._runner.run(job.endpoint, request.body, until=until, control=job.control)
        try:
            outcome = await job.control.before_expiry(call)
        except Exception as error:
            failures.append(error)
            return
        if outcome is None:
            await self._not_run(job, request, journal)
        else:
            await self._keep(journal, result(job.batch.id, request.line_number, request.custom_id, outcome))

    async def _not_run(self, job: Job, request: Request, journal: Journal) -> None:
        """Writes why the line did not run, unless the next process will run it."""
        if job.control.reason:
            reason = job.control.reason
            await self._keep(journal, result(job.batch.id, request.line_number, request.custom_id, reason, ran=False))

    async def _keep(self, journal: Journal, found: Result) -> None:
        await journal.append(found)
        self._lines[found.kind].inc()

    async def _show_progress(self, chunk: ChunkRecord, journal: Journal) -> None:
        """Publishes the counts while lines run. Where that fails the lines go on: their calls are paid for."""
        shown = journal.counts

        async def publish() -> None:
            nonlocal shown
            if (counts := journal.counts) != shown:
                await self._work.publish(chunk, counts)
                shown = counts

        await every(_PUBLISH_SECONDS, publish, partial(_log.exception, "progress can't be shown, lines go on"))

    async def _seal(self, job: Job, chunk: ChunkRecord, journal: Journal) -> None:
        texts = {OUTPUT: journal.texts(Kind.COMPLETED), ERROR: journal.texts(Kind.FAILED, Kind.NOT_RUN)}
        async with segments(self._store, job.batch.id, chunk, bounded=not job.control.reason) as made:
            for kind, pieces in texts.items():
                while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                    await made.write(kind, piece)
            await made.seal(self._work, chunk, journal.counts)


def _missing(data: bytes, first_line: int, journal: Journal) -> list[Request]:
    """The requests without a result. They may be many, or one of many mebibytes."""
    return [request for request in lines(data, first_line) if request.line_number not in journal]
