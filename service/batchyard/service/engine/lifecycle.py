"""The life of a batch that the service runs itself, one committed step at a time (facts 2).

validating -> failed
validating -> in_progress -> finalizing -> completed | expired
validating | in_progress | finalizing -> cancelling -> cancelled
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from batchyard.service.engine.chunk import ChunkRunner, Job
from batchyard.service.engine.control import Control, Drained
from batchyard.service.errors import DataLoss
from batchyard.service.filestore import Part
from batchyard.service.identifiers import new_file_id
from batchyard.service.jsonl import LineError, Scan
from batchyard.service.registry.records import BatchRecord, ChunkRecord, Status
from batchyard.service.registry.work import Enqueued, NoRoom, WorkRegistry
from batchyard.service.requestline import EMBEDDINGS, endpoint_of
from batchyard.service.settings import Limits
from batchyard.service.validation import judge

_CHUNKS_AT_ONCE = 2  # the second fills the slots that the first one's last lines leave


class _Input(NamedTuple):
    scan: Scan | None
    parts: list[Part]
    errors: list[LineError]


class Lifecycle:
    """`advance` takes a leased batch one step further; every step may be repeated."""

    def __init__(
        self,
        work: WorkRegistry,
        chunks: ChunkRunner,
        *,
        batch_slots: int,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._work = work
        self._chunks = chunks
        self._slots = asyncio.Semaphore(batch_slots)
        self._limits = limits
        self._clock = clock

    async def advance(self, batch: BatchRecord, control: Control) -> BatchRecord:
        """The batch after its next step. Raises LeaseLost where the batch moved on without us, and Drained."""
        try:
            match batch.status:
                case Status.VALIDATING:
                    return await self._validate(batch, control)
                case Status.IN_PROGRESS:
                    return await self._run(batch, control)
                case Status.FINALIZING:
                    ended = Status.COMPLETED if batch.completed + batch.failed == batch.total else Status.EXPIRED
                    return await self._end(batch, ended)
                case _:
                    return await self._cancel(batch, control)
        except DataLoss as error:
            return await self._give_up(batch, LineError("input_lost", error.message, "input_file_id", None))

    async def _validate(self, batch: BatchRecord, control: Control) -> BatchRecord:
        found = await self._input(batch)
        if found.errors:
            return await self._fail(batch, found.errors)
        async with self._turn(control):
            try:
                return await self._plan(
                    batch,
                    found,
                    _bounds(batch, found.scan, self._limits),
                    status=Status.IN_PROGRESS,
                    in_progress_at=self._now(batch),
                )
            except NoRoom as full:
                return await self._fail(batch, [_no_room(batch.tenant, full.enqueued)])

    async def _run(self, batch: BatchRecord, control: Control) -> BatchRecord:
        found = await self._input(batch)
        async with self._turn(control):
            await self._run_chunks(batch, found.parts, control)
        return await self._work.update_batch(batch, status=Status.FINALIZING, finalizing_at=self._now(batch))

    async def _cancel(self, batch: BatchRecord, control: Control) -> BatchRecord:
        found = await self._input(batch)
        if not batch.total and not found.errors:
            batch = await self._plan(batch, found)
        if batch.total:
            await self._run_chunks(batch, found.parts, control)
        return await self._end(batch, Status.CANCELLED)

    def _turn(self, control: Control) -> "_Turn":
        return _Turn(self._slots, control)

    async def _input(self, batch: BatchRecord) -> _Input:
        found = await self._work.input_of(batch)
        _, stored, parts = found or (None, None, [])
        if stored is None:
            return _Input(None, [], [_no_input(batch.input_file_id, found is not None)])
        scan = Scan.from_dict(stored)
        return _Input(scan, parts, judge(scan, batch.endpoint, self._limits))

    async def _plan(
        self, batch: BatchRecord, found: _Input, bounds: Iterable[Enqueued] = (), **values: Any
    ) -> BatchRecord:
        scan = found.scan
        if scan is None:
            raise DataLoss("The input file's scan is missing.")
        planned = [
            {"n": n, "first_line": chunk.first_line, "start": chunk.offset, "end": chunk.offset + chunk.size}
            for n, chunk in enumerate(scan.chunks)
        ]
        return await self._work.plan(batch, planned, bounds=bounds, model=_model(scan), total=scan.lines, **values)

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

        ended = await asyncio.gather(*(runner() for _ in range(_CHUNKS_AT_ONCE)), return_exceptions=True)
        for failure in filter(None, ended):
            raise failure

    async def _fail(self, batch: BatchRecord, errors: Sequence[LineError]) -> BatchRecord:
        """Ends a batch for its input's sake; one that was cancelled meanwhile is just that."""
        if batch.status == Status.CANCELLING:
            return await self._end(batch, Status.CANCELLED)
        listed = [msgspec.structs.asdict(error) for error in errors]
        values = {"status": Status.FAILED, "failed_at": self._now(batch), "errors": listed}
        return await self._work.finish(batch, [], **values)

    async def _give_up(self, batch: BatchRecord, error: LineError) -> BatchRecord:
        """Ends a batch whose input is damaged, with the results that are sealed."""
        if batch.status == Status.CANCELLING:
            return await self._end(batch, Status.CANCELLED)
        return await self._end(batch, Status.FAILED, errors=[msgspec.structs.asdict(error)])

    async def _end(self, batch: BatchRecord, status: Status, **values: Any) -> BatchRecord:
        sealed = await self._work.chunks(batch)
        now = self._now(batch)
        results = [
            (column, self._file(batch, kind, parts, now), parts)
            for kind, column, parts in (
                ("output", "output_file_id", _outputs(sealed)),
                ("error", "error_file_id", _errors(sealed)),
            )
            if parts
        ]
        return await self._work.finish(batch, results, status=status, **{f"{status}_at": now}, **values)

    def _file(self, batch: BatchRecord, kind: str, parts: Sequence[Part], now: int) -> dict[str, Any]:
        return {
            "id": new_file_id(),
            "provider": batch.provider,
            "purpose": "batch_output",
            "filename": f"{batch.id}_{kind}.jsonl",
            "bytes": sum(part.size for part in parts),
            "created_at": now,
            "expires_at": now + batch.output_seconds,
            "status": "processed",
        }

    def _now(self, batch: BatchRecord) -> int:
        return batch.not_before(int(self._clock()))


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


def _outputs(sealed: Sequence[ChunkRecord]) -> list[Part]:
    return [Part(chunk.output_key, chunk.output_size) for chunk in sealed if chunk.output_key]


def _errors(sealed: Sequence[ChunkRecord]) -> list[Part]:
    return [Part(chunk.error_key, chunk.error_size) for chunk in sealed if chunk.error_key]


def _model(scan: Scan) -> str | None:
    return scan.models[0] if scan.models else None


def _bounds(batch: BatchRecord, scan: Scan | None, limits: Limits) -> Iterator[Enqueued]:
    """What the batch adds to the limits that its tenant's running batches share (facts 3.4)."""
    if scan and (most := limits.max_enqueued_tokens):
        yield Enqueued("tokens", _model(scan), scan.estimated_tokens, most)
    if scan and (most := limits.max_enqueued_embeddings) and batch.endpoint == EMBEDDINGS:
        yield Enqueued("requests", batch.endpoint, scan.lines, most)


def _no_room(tenant: str, full: Enqueued) -> LineError:
    """Facts 3.5; OpenAI's words for requests are not known."""
    kind = full.kind.removesuffix("s")
    message = (
        f"Enqueued {kind} limit reached for {full.name or 'no model'} in organization {tenant}. Limit: "
        f"{full.most:,} enqueued {full.kind}. Please try again once some in_progress batches have been completed."
    )
    return LineError(f"{kind}_limit_exceeded", message, None, None)


def _no_input(file_id: str, found: bool) -> LineError:
    """Facts 3.5; a file that is there and was not scanned has another purpose than batch."""
    message = f"Cannot find file {file_id}, or your key does not have access to it."
    if found:
        message = f"File {file_id} is not a batch input: its purpose is not 'batch'."
    return LineError("invalid_request", message, "file_id", None)
