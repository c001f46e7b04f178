"""The registry's records as messages of the contract: from columns, or as the deployment has it where one does."""

from collections.abc import Iterable

from batchyard.common.jsonmap import absorber
from batchyard.service.domain.records import ENDED, BatchRecord, FileRecord, PlacementRecord, Status
from batchyard.v1 import (
    Batch,
    BatchError,
    BatchErrors,
    BatchRequestCounts,
    BatchStatus,
    BatchUsage,
    File,
    FileStats,
    Placement,
)

_STATUS = {status: BatchStatus.Value(f"BATCH_STATUS_{status.upper()}") for status in map(str, Status)}
_absorb_batch = absorber(Batch)
_absorb_file = absorber(File)


def file_message(file: FileRecord) -> File:
    if file.upstream is not None:
        found = File()
        _absorb_file(found, file.upstream, "")
        found.id, found.provider, found.deployment = file.id, file.provider, file.deployment or ""
        return found
    stats = None
    if file.stats and file.purpose == "batch":
        stats = FileStats(**{**file.stats, "sha256": bytes.fromhex(file.stats["sha256"])})
    return File(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
        status=file.status,
        status_details=file.status_details,
        provider=file.provider,
        deployment=file.deployment or "",
        stats=stats,
    )


def batch_message(batch: BatchRecord, placements: Iterable[PlacementRecord] = (), now: float = 0.0) -> Batch:
    """`now`, in Unix seconds, tells how old a state is that was seen elsewhere and may have changed."""
    if batch.upstream is not None:
        message = Batch()
        _absorb_batch(message, batch.upstream, "")
        message.id, message.provider, message.deployment = batch.id, batch.provider, batch.deployment or ""
        message.input_file_id = batch.input_file_id
        message.endpoint = message.endpoint or batch.endpoint  # Azure has none while it validates
        message.completion_window = message.completion_window or batch.completion_window
        for name in ("output_file_id", "error_file_id"):
            message.ClearField(name)
            if found := getattr(batch, name):
                setattr(message, name, found)
        message.observed_at = batch.observed_at or 0
        if batch.status not in ENDED:
            message.age_seconds = max(0, int(now) - message.observed_at)
        return message
    return Batch(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        errors=_errors(batch),
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=_STATUS[batch.status],
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created_at,
        in_progress_at=batch.in_progress_at,
        expires_at=batch.expires_at,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        failed_at=batch.failed_at,
        expired_at=batch.expired_at,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
        request_counts=_counts(batch),
        usage=_usage(batch),
        metadata=batch.metadata,
        provider=batch.provider,
        placements=[*map(_placement, placements), *([Placement(reason=batch.waiting)] if batch.waiting else [])],
    )


def _placement(placed: PlacementRecord) -> Placement:
    return Placement(
        provider=placed.provider,
        deployment=placed.deployment,
        member=placed.member,
        provider_batch_id=placed.native_id or "",
        first_line=placed.first_line,
        lines=placed.lines,
        status=_STATUS.get(placed.status, BatchStatus.BATCH_STATUS_UNSPECIFIED),
        reason=placed.reason,
    )


def _errors(batch: BatchRecord) -> BatchErrors | None:
    if batch.errors is None:
        return None
    return BatchErrors(data=[BatchError(**error) for error in batch.errors])


def _counts(batch: BatchRecord) -> BatchRequestCounts:
    """None while validating (facts 2)."""
    total = 0 if batch.status == Status.VALIDATING else batch.total
    return BatchRequestCounts(total=total, completed=batch.completed, failed=batch.failed)


def _usage(batch: BatchRecord) -> BatchUsage:
    return BatchUsage(
        input_tokens=batch.input_tokens,
        input_tokens_details=BatchUsage.InputTokensDetails(cached_tokens=batch.cached_tokens),
        output_tokens=batch.output_tokens,
        output_tokens_details=BatchUsage.OutputTokensDetails(reasoning_tokens=batch.reasoning_tokens),
        total_tokens=batch.input_tokens + batch.output_tokens,
    )
