"""Runs one chunk of a batch: every line of it ends as one line of a sealed output or error segment."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from batchyard.service.disk import Disk
from batchyard.service.engine.control import Control, Drained, tasks
from batchyard.service.engine.journal import Journal
from batchyard.service.engine.results import Kind, result
from batchyard.service.errors import LeaseLost, StorageFull
from batchyard.service.filestore import FileStore, Part
from batchyard.service.providers.endpoint import LineRunner
from batchyard.service.registry.records import BatchRecord, ChunkRecord, SealedChunk
from batchyard.service.registry.work import WorkRegistry
from batchyard.service.requestline import Request, lines

_PUBLISH_SECONDS = 0.25
_ENDINGS = 4  # chunks of stopped batches that are written off at once: each is in memory
_ROOM_BYTES = 32 << 20  # free space without which no line is started: its answer would be paid for and lost


class Job(NamedTuple):
    """A batch as its chunks need it. `endpoint` has its /v1."""

    batch: BatchRecord
    endpoint: str
    parts: list[Part]
    control: Control


class ChunkRunner:
    """Runs chunks of any batches; `line_slots` bounds the lines in flight over all of them.

    `folder` holds the journals, which only this data directory's process touches.
    """

    def __init__(
        self,
        work: WorkRegistry,
        store: FileStore,
        disk: Disk,
        folder: Path,
        runner: LineRunner,
        *,
        line_slots: int,
        line_seconds: float,
        lease_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._work = work
        self._store = store
        self._disk = disk
        self._folder = folder
        self._runner = runner
        self._slots = asyncio.Semaphore(line_slots)
        self._endings = asyncio.Semaphore(_ENDINGS)
        self._line_seconds = line_seconds
        self._lease_seconds = lease_seconds
        self._clock = clock

    async def run_chunk(self, job: Job, chunk: ChunkRecord) -> None:
        """Takes the chunk's lease, runs the lines that no earlier epoch has, seals them and commits.

        Raises LeaseLost where somebody else has the chunk, DataLoss where the input is damaged, Drained.
        """
        async with self._endings if job.control.reason else nullcontext():
            await self._run_claimed(job, chunk)

    async def _run_claimed(self, job: Job, chunk: ChunkRecord) -> None:
        now = self._clock()
        chunk = await self._work.claim_chunk(chunk, now, now + self._lease_seconds)
        async with self._journal(job.batch.id, chunk) as journal:
            async with tasks() as group:
                publisher = group.create_task(self._publish(chunk, journal))
                await self._run_lines(job, chunk, journal)
                publisher.cancel()
            await journal.drain()
            sealed = await self._seal(job.batch.id, chunk, journal)
            await self._commit(chunk, sealed)
            await asyncio.to_thread(journal.remove)

    @asynccontextmanager
    async def _journal(self, batch_id: str, chunk: ChunkRecord) -> AsyncIterator[Journal]:
        stem = f"{batch_id}.{chunk.n}"
        earlier = await asyncio.to_thread(lambda: sorted(self._folder.glob(f"{stem}.*.journal")))
        journal = await Journal.open(self._folder / f"{stem}.{token_hex(8)}.journal", self._disk, earlier)
        try:
            yield journal
        finally:
            await journal.close()

    async def _run_lines(self, job: Job, chunk: ChunkRecord, journal: Journal) -> None:
        if job.control.go_on() and await asyncio.to_thread(self._store.free_bytes) < _ROOM_BYTES:
            raise StorageFull("The disk is nearly full: no line is started.")
        pieces = self._store.read(job.parts, chunk.start, chunk.end - chunk.start)
        data = b"".join([piece async for piece in pieces])
        async with tasks() as group:
            for request in lines(data, chunk.first_line):
                if request.line_number in journal:
                    continue
                if job.control.go_on():
                    await self._slots.acquire()
                    line = group.create_task(self._run_line(job, request, journal))
                    line.add_done_callback(self._free_slot)  # also of a task that is cancelled before its first step
                else:
                    await self._not_run(job, request, journal)
        if job.control.drained:
            raise Drained

    def _free_slot(self, _: asyncio.Task[None]) -> None:
        self._slots.release()

    async def _run_line(self, job: Job, request: Request, journal: Journal) -> None:
        until = asyncio.get_running_loop().time() + self._line_seconds
        call = self._runner.run(job.endpoint, request.body, until=until, wanted=job.control.go_on)
        outcome = await job.control.before_expiry(call)
        if outcome is None:
            await self._not_run(job, request, journal)
        else:
            await journal.append(result(job.batch.id, request.line_number, request.custom_id, outcome))

    async def _not_run(self, job: Job, request: Request, journal: Journal) -> None:
        """Writes why the line did not run, unless the next process will run it."""
        if job.control.reason:
            reason = job.control.reason
            await journal.append(result(job.batch.id, request.line_number, request.custom_id, reason, ran=False))

    async def _publish(self, chunk: ChunkRecord, journal: Journal) -> None:
        shown = journal.counts
        while True:
            await asyncio.sleep(_PUBLISH_SECONDS)
            if journal.counts != shown:
                shown = journal.counts
                await self._work.publish(chunk, shown)

    async def _seal(self, batch_id: str, chunk: ChunkRecord, journal: Journal) -> SealedChunk:
        key = f"segments/{batch_id}.{chunk.n}.{chunk.epoch}"
        output = await self._write(f"{key}.output", journal.texts(Kind.COMPLETED))
        error = await self._write(f"{key}.error", journal.texts(Kind.FAILED, Kind.NOT_RUN))
        return SealedChunk(counts=journal.counts, output=output, error=error)

    async def _write(self, key: str, pieces: Iterator[bytes]) -> Part | None:
        piece = await asyncio.to_thread(next, pieces, None)
        if piece is None:
            return None
        async with self._store.writer(key) as writer:
            while piece is not None:
                await writer.write(piece)
                piece = await asyncio.to_thread(next, pieces, None)
            await writer.commit()
        return Part(key, writer.size)

    async def _commit(self, chunk: ChunkRecord, sealed: SealedChunk) -> None:
        try:
            await self._work.seal(chunk, sealed)
        except LeaseLost:
            for part in (sealed.output, sealed.error):
                if part:
                    await self._store.delete(part.key)
            raise
