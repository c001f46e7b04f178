"""What a provider must do, in terms of the registry's records.

Reading descriptions and lists is the registry's business alone: a provider is asked where bytes move or work starts.
Every id that it makes is registered with the owner before the call returns.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import msgspec

from batchyard.service.config.settings import Limits
from batchyard.service.domain.keys import KeyRecord
from batchyard.service.domain.names import MOST_ID
from batchyard.service.domain.records import BatchRecord, FileRecord, IdempotencyKey
from batchyard.service.domain.wording import check_one_of, too_long, unknown
from batchyard.service.errors import InvalidArgument, OutOfRange, PermissionDenied, TooLarge
from batchyard.service.jsonl.request_line import NAMES
from batchyard.service.objects.base import PieceBytes, largest
from batchyard.service.registry.tenant import TenantRegistry


class FileDescription(NamedTuple):
    """What the caller says of a file; `seconds` is how long it is kept, None for the provider's default.

    `purpose` is empty while it isn't known; `announced` is the most bytes that are to come, where that is known.
    """

    purpose: str
    filename: str
    seconds: int | None = None
    content_type: str = "application/octet-stream"
    announced: int | None = None


class NewBatch(NamedTuple):
    """A batch as it is asked for, checked as far as all providers agree.

    `output_seconds` as in `FileDescription`; `key` is the idempotency key; `extra` are members that we don't know. A
    batch over a blob has no input file, but the URLs of the blob and of the folder for its results. `model` is the one
    that lines have to name, where the caller says so.
    """

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str]
    output_seconds: int | None = None
    key: str = ""
    extra: dict[str, Any] = {}  # noqa: RUF012 - never changed
    input_blob: str = ""
    output_folder: str = ""
    model: str = ""

    def once(self, provider: str, now: int) -> IdempotencyKey | None:
        """What makes a repeat of this request recognisable at a provider, where its caller gave a key."""
        if not self.key:
            return None
        values = self._replace(key="")[: None if self.model else -1]  # as it was encoded before there was a model
        asked = msgspec.json.encode((provider, values), order="deterministic")
        return IdempotencyKey(self.key, sha256(asked).hexdigest(), now)


class Upload(Protocol):
    """A file on its way in. Leaving its context before `finish` returned leaves nothing behind."""

    size: int

    async def write(self, data: bytes) -> None:
        """Takes the next bytes. Raises TooLarge, StorageFull."""

    async def finish(self, description: FileDescription, digest: bytes | None) -> FileRecord:
        """Makes the file durable, then registers it. Raises InvalidArgument where the content is refused.

        `digest` is the SHA-256 that the caller announced, if any.
        """


class Span(NamedTuple):
    """The part of a file that is asked for: from `offset` (negative: from the end), `limit` bytes (0: to the end)."""

    offset: int = 0
    limit: int = 0


class Content(NamedTuple):
    """Bytes of a file in pieces that fit a message, and what is known of them before they come."""

    pieces: AsyncIterator[bytes]
    total: int | None
    offset: int
    length: int | None


def check_size(size: int, limits: Limits) -> None:
    """Raises TooLarge. An input that is too large for a batch is another matter: that batch fails."""
    most = limits.max_file_bytes
    if size > most:
        raise TooLarge(f"The file is larger than the maximum of {most} bytes.", param="file")


def check_digest(digest: bytes | None, found: bytes) -> None:
    """Raises InvalidArgument where the content is not the one that was announced."""
    if digest is not None and digest != found:
        raise InvalidArgument("The content does not have the SHA-256 that was announced.", param="finish.sha256")


def span_within(span: Span, size: int) -> tuple[int, int]:
    """Offset and length of a part of `size` bytes. Raises OutOfRange where it starts behind the end."""
    start = span.offset
    offset = max(0, size + start) if start < 0 else start
    if offset > size or (offset == size and start > 0):
        raise OutOfRange(f"The file has {size} bytes; a read can't start at {start}.", param="read_offset")
    left = size - offset
    return offset, min(left, span.limit) if span.limit > 0 else left


class Provider(Protocol):
    """One place where files and batches live: ours, or a deployment of somebody else's."""

    name: str
    """The provider's name."""
    place: str
    """The deployment's name; for what is ours, the provider's."""

    def upload(self, owner: TenantRegistry, begun: FileDescription) -> AbstractAsyncContextManager[Upload]:
        """Begins an upload, of which `begun` is known. Raises Busy."""

    def content(
        self, owner: TenantRegistry, file: FileRecord, span: Span, piece_bytes: PieceBytes = largest
    ) -> AbstractAsyncContextManager[Content]:
        """Opens a file's content, in pieces of at most what `piece_bytes` says at the time.

        Raises OutOfRange; the pieces raise DataLoss where they end too early.
        """

    async def file(self, owner: TenantRegistry, file: FileRecord) -> FileRecord:
        """The file as it is now, where that may have changed."""

    async def delete(self, owner: TenantRegistry, file: FileRecord) -> None:
        """Removes a file, for its owner first. Raises FailedPrecondition while a batch reads it."""

    async def create_batch(self, owner: TenantRegistry, new: NewBatch, file: FileRecord | None) -> BatchRecord:
        """Starts a batch over a file, once; one over no file fails by itself (facts 2)."""

    async def batch(self, batch: BatchRecord, *, fresh: bool) -> BatchRecord:
        """A batch that has not ended, as it is, or was a moment ago unless it has to be `fresh`.

        One that can't be looked at stays as it was, however long ago; where it has to be `fresh`, raises Refused.
        """

    async def cancel_batch(self, owner: TenantRegistry, batch: BatchRecord) -> BatchRecord:
        """Asks a batch to stop. Raises FailedPrecondition where it has ended otherwise."""

    async def refresh(self, owner: TenantRegistry) -> bool:
        """Looks again at the owner's live batches, whose results it may not know yet; False: there was no need."""

    async def find_file(self, native_id: str) -> FileRecord:
        """A file that is there and not in the registry, for who may see everything. Raises NotFound."""

    async def find_batch(self, native_id: str) -> BatchRecord:
        """A batch that is there and not in the registry, for who may see everything. Raises NotFound."""

    async def adopt_file(self, tenant: str, native_id: str) -> FileRecord:
        """Registers a file that came there without us; one that is registered keeps its owner. Raises NotFound."""

    async def adopt_batch(self, tenant: str, native_id: str) -> BatchRecord:
        """Registers a batch that came there without us, with its result files, likewise."""


def check_ours(new: NewBatch) -> None:
    """Raises InvalidArgument for what only other providers may know."""
    if new.endpoint not in NAMES:
        check_one_of(new.endpoint, "endpoint", NAMES)
    for name in [*new.extra, *(["input_blob"] if new.input_blob else [])]:
        raise unknown(name)


def check_groups(key: KeyRecord, new: NewBatch, file: FileRecord | None) -> None:
    """Raises PermissionDenied for a batch of a model group that its key may not use, whichever names it.

    Of an input with lines of too many models not all are known; such a batch fails before a line runs.
    """
    found = (file.stats or {}).get("models", []) if file else []
    for model in filter(None, [new.model, *found]):
        check_group(key, model)


def check_group(key: KeyRecord, model: str) -> None:
    """Raises PermissionDenied where the key may not use a model group."""
    if not key.batches_over(model):
        allowed = ", ".join(key.model_groups)
        message = f"This API key may not use the model group '{model}', but only: {allowed}."
        raise PermissionDenied(message, param="model")


def check_theirs(new: NewBatch) -> None:
    """Raises InvalidArgument for what no provider needs to be asked."""
    if len(new.endpoint) > MOST_ID:
        raise too_long("endpoint", MOST_ID, len(new.endpoint), "a string")
