"""What the registry holds, as values. Field names are column names; times are Unix seconds."""

from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import msgspec


class Part(NamedTuple):
    """One of the objects whose concatenation is a file's content; `size` is in bytes.

    `sums` are its `Checksums`; None for one that was written before there were any, and is read as it is.
    """

    key: str
    size: int
    sums: bytes | None = None


class Status(StrEnum):
    """Where a batch is in its life, in OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


LIVE = (Status.VALIDATING, Status.IN_PROGRESS, Status.FINALIZING, Status.CANCELLING)
ENDED = (Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED)
"""What is neither, a word of a provider that we don't know, may still change."""


class RegistryIdentity(msgspec.Struct, frozen=True):
    """Which registry this is: its id, how often that was written down, and the newest time that was believed."""

    id: str
    generation: int = 0
    newest_at: int = 0


class Counts(msgspec.Struct, frozen=True):
    """Lines that ran, and the tokens that they used."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            *(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True))
        )


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file. `stats` is what FileStats carries (lines, models, estimated_tokens, sha256), for scanned files.

    One at a deployment has its own id there, what that last said of it in OpenAI's form (none: not asked yet), and
    when. A `seq` of 0 is a file that is at the deployment and not in the registry. `key_id` says by which key it was
    made, if by one.
    """

    seq: int
    id: str
    tenant: str
    provider: str
    purpose: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int | None
    status: str
    status_details: str | None
    stats: dict[str, Any] | None
    deployment: str | None
    native_id: str | None
    upstream: dict[str, Any] | None
    observed_at: int | None
    key_id: str | None


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. `output_seconds` is how long its result files are kept; `epoch` is the lease's.

    `traceparent` is the step of a trace that created it (W3C Trace Context), if there was one. `waiting` says why lines
    of a group's batch are at no deployment, or why none of `local` run. `estimated_tokens` and `estimated_lines` are
    what it was reckoned at when it was created. For a batch at a deployment, and its key, see `FileRecord`.
    """

    seq: int
    id: str
    tenant: str
    provider: str
    endpoint: str
    model: str | None
    errors: list[dict[str, Any]] | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    metadata: dict[str, str]
    output_seconds: int
    traceparent: str | None
    waiting: str | None
    epoch: int
    deployment: str | None
    native_id: str | None
    upstream: dict[str, Any] | None
    observed_at: int | None
    key_id: str | None
    estimated_tokens: int
    estimated_lines: int

    def not_before(self, now: int) -> int:
        """`now`, or the latest of the batch's timestamps where the clock was put back behind it."""
        passed = (self.created_at, self.in_progress_at, self.finalizing_at, self.cancelling_at)
        return max(now, *(at for at in passed if at))


class ChunkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes `start` to `end` of a batch's input, whose first line is number `first_line`, counted from 1."""

    batch_seq: int
    n: int
    first_line: int
    start: int
    end: int
    sealed: int
    output_key: str | None
    output_size: int
    output_sums: bytes | None = None
    error_key: str | None
    error_size: int
    error_sums: bytes | None = None
    epoch: int


class SealedChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk's results: durable objects of the file store, absent where no line went there."""

    counts: Counts
    output: Part | None
    error: Part | None


class PlacementRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A shard of a group's batch at a member: the lines of chunk `n`.

    `open` until the deployment says that it has ended; `asked` when it may know of it. `file_id` and `shard_id` are
    our rows of its input and its batch there, `native_id` that batch's own id.
    """

    batch_seq: int
    n: int
    member: str
    provider: str
    deployment: str
    model: str
    first_line: int
    lines: int
    tokens: int
    reason: str
    status: str
    open: int
    asked: int
    created_at: int
    file_id: str | None
    shard_id: str | None
    native_id: str | None


class Kind(IntEnum):
    """Where a line's result goes and whether it counts."""

    COMPLETED = 1  # output file
    FAILED = 2  # error file
    NOT_RUN = 3  # error file, in no count


class IdempotencyKey(NamedTuple):
    """A caller's idempotency key, the digest of its request, and the time, in Unix seconds."""

    key: str
    digest: str
    created_at: int
