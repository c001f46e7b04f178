"""What a provider must do, in terms of the registry's records.

Reading descriptions and lists is the registry's business alone: a provider is asked where bytes move or work starts.
Every id that it makes is registered with the owner before the call returns.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from typing import NamedTuple, Protocol

import msgspec

from batchyard.service.registry.records import BatchRecord, FileRecord
from batchyard.service.registry.tenant import Once, TenantRegistry


class FileDescription(NamedTuple):
    """What the caller says of a file; `seconds` is how long it is kept, None for the provider's default."""

    purpose: str
    filename: str
    seconds: int | None = None


class NewBatch(NamedTuple):
    """A batch as it is asked for, checked. `output_seconds` as in `FileDescription`; `key` is the idempotency key."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str]
    output_seconds: int | None = None
    key: str = ""

    def once(self, provider: str, now: int) -> Once | None:
        """What makes a repeat of this request recognisable at a provider, where its caller gave a key."""
        if not self.key:
            return None
        asked = msgspec.json.encode((provider, self._replace(key="")), order="deterministic")
        return Once(self.key, sha256(asked).hexdigest(), now)


class Upload(Protocol):
    """A file on its way in. Leaving its context before `finish` returned leaves nothing behind."""

    size: int

    async def write(self, data: bytes) -> None:
        """Takes the next bytes. Raises TooLarge, StorageFull."""

    async def finish(self, description: FileDescription, digest: bytes | None) -> FileRecord:
        """Makes the file durable, then registers it. Raises InvalidArgument where the content is refused.

        `digest` is the SHA-256 that the caller announced, if any.
        """


class Provider(Protocol):
    """One place where files and batches live."""

    name: str

    def upload(self, owner: TenantRegistry, purpose: str) -> AbstractAsyncContextManager[Upload]:
        """Begins an upload; `purpose` is empty while it isn't known. Raises Busy."""

    def content(self, owner: TenantRegistry, file: FileRecord, offset: int, length: int) -> AsyncIterator[bytes]:
        """Bytes of a file, in pieces that fit a message. Raises DataLoss."""

    async def delete(self, owner: TenantRegistry, file: FileRecord) -> None:
        """Removes the bytes of a file that the registry has marked as deleted; a repeat is fine."""

    async def create_batch(self, owner: TenantRegistry, new: NewBatch) -> BatchRecord:
        """Starts a batch, once."""

    async def cancel_batch(self, owner: TenantRegistry, batch: BatchRecord) -> BatchRecord:
        """Asks a batch to stop. Raises FailedPrecondition where it has ended otherwise."""
