"""What the lives of all batches that the service runs itself have in common: their input, and how they end."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from batchyard.service.config.settings import Limits
from batchyard.service.domain.ids import new_file_id
from batchyard.service.domain.records import BatchRecord, ChunkRecord, Part, Status
from batchyard.service.errors import DataLoss
from batchyard.service.jsonl.request_line import EMBEDDINGS
from batchyard.service.jsonl.scanner import LineError, Scan
from batchyard.service.registry.work import Enqueued, NoRoom, WorkRegistry

_log = logging.getLogger("batchyard.engine")


class Input(NamedTuple):
    """A batch's input: what the scan found, its content, and why it can't be run."""

    scan: Scan | None
    parts: list[Part]
    errors: list[LineError]


class Steps:
    """Steps that are committed, each of which may be repeated. They raise LeaseLost where the batch moved on."""

    def __init__(
        self,
        work: WorkRegistry,
        judge: Callable[[BatchRecord, Scan], list[LineError]],
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        """`judge` says what is wrong with an input for a batch."""
        self._work = work
        self._judge = judge
        self._limits = limits
        self._clock = clock

    async def input(self, batch: BatchRecord) -> Input:
        found = await self._work.input_of(batch)
        _, stored, parts = found or (None, None, [])
        if stored is None:
            return Input(None, [], [_no_input(batch.input_file_id, found is not None)])
        scan = Scan.from_dict(stored)
        return Input(scan, parts, self._judge(batch, scan))

    async def plan(
        self, batch: BatchRecord, scan: Scan, chunks: Sequence[dict[str, Any]] = (), **values: Any
    ) -> BatchRecord:
        """Counts the batch among those that run; one that is too much for its tenant fails, if it is not cancelled."""
        bounds = () if batch.status == Status.CANCELLING else _bounds(batch, scan, self._limits)
        try:
            return await self._work.plan(batch, chunks, bounds=bounds, model=model_of(scan), total=scan.lines, **values)
        except NoRoom as full:
            return await self.fail(batch, [_no_room(batch.tenant, full.enqueued)])

    async def fail(self, batch: BatchRecord, errors: Sequence[LineError]) -> BatchRecord:
        """Ends a batch for its input's sake; one that was cancelled meanwhile is just that."""
        if batch.status == Status.CANCELLING:
            return await self.end(batch, Status.CANCELLED)
        listed = [msgspec.structs.asdict(error) for error in errors]
        values = {"status": Status.FAILED, "failed_at": self.now(batch), "errors": listed}
        return await self._work.finish(batch, [], **values)

    async def give_up(self, batch: BatchRecord, damage: DataLoss) -> BatchRecord:
        """Ends a batch whose input is damaged, with the results that are sealed."""
        why = "; ".join([damage.message, *getattr(damage, "__notes__", ())])
        _log.error("the input of a batch is damaged: it ends", extra={"batch": batch.id, "why": why})
        if batch.status == Status.CANCELLING:
            return await self.end(batch, Status.CANCELLED)
        error = LineError("input_lost", damage.message, "input_file_id", None)
        return await self.end(batch, Status.FAILED, errors=[msgspec.structs.asdict(error)])

    async def finalize(self, batch: BatchRecord) -> BatchRecord:
        """No line runs any more."""
        return await self._work.update_batch(batch, status=Status.FINALIZING, finalizing_at=self.now(batch))

    async def complete(self, batch: BatchRecord) -> BatchRecord:
        """Ends a batch whose lines all have a result."""
        ran = batch.completed + batch.failed
        return await self.end(batch, Status.COMPLETED if ran == batch.total else Status.EXPIRED)

    async def end(self, batch: BatchRecord, status: Status, **values: Any) -> BatchRecord:
        """Ends a batch with the results that are sealed."""
        sealed = await self._work.chunks(batch)
        now = self.now(batch)
        results = [
            (column, self._file(batch, kind, parts, now), parts)
            for kind, column, parts in (
                ("output", "output_file_id", _outputs(sealed)),
                ("error", "error_file_id", _errors(sealed)),
            )
            if parts
        ]
        return await self._work.finish(batch, results, status=status, **{f"{status}_at": now}, **values)

    def now(self, batch: BatchRecord) -> int:
        return batch.not_before(int(self._clock()))

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


def model_of(scan: Scan) -> str | None:
    """The model that the lines of a good input name."""
    return scan.models[0] if scan.models else None


def _bounds(batch: BatchRecord, scan: Scan, limits: Limits) -> Iterator[Enqueued]:
    """What the batch adds to the limits that its tenant's running batches share (facts 3.4)."""
    if most := limits.max_enqueued_tokens:
        yield Enqueued("tokens", model_of(scan), scan.estimated_tokens, most)
    if (most := limits.max_enqueued_embeddings) and batch.endpoint == EMBEDDINGS:
        yield Enqueued("requests", batch.endpoint, scan.lines, most)


def _no_room(tenant: str, full: Enqueued) -> LineError:
    """Facts 3.5; OpenAI's words for requests are not known."""
    kind = full.kind.removesuffix("s")
    message = (
        f"Enqueued {kind} limit reached for {full.name or 'no model'} in organization {tenant}. Limit: "
        f"{full.most:,} enqueued {full.kind}. Please try again once some in_progress batches have been completed."
    )
    return LineError(f"{kind}_limit_exceeded", message, None, None)


def _outputs(sealed: Sequence[ChunkRecord]) -> list[Part]:
    return [Part(chunk.output_key, chunk.output_size, chunk.output_sums) for chunk in sealed if chunk.output_key]


def _errors(sealed: Sequence[ChunkRecord]) -> list[Part]:
    return [Part(chunk.error_key, chunk.error_size, chunk.error_sums) for chunk in sealed if chunk.error_key]


def _no_input(file_id: str, found: bool) -> LineError:
    """Facts 3.5; a file that is there and was not scanned has another purpose than batch."""
    message = f"Cannot find file {file_id}, or your key does not have access to it."
    if found:
        message = f"File {file_id} is not a batch input: its purpose is not 'batch'."
    return LineError("invalid_request", message, "file_id", None)
