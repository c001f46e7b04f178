"""Places that are ours: files in our own store, batches that our own engine runs: `local`, and the model groups."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Any

from batchyard.service.access.upload_slots import UploadPlaces
from batchyard.service.config.settings import Limits, RetentionSettings
from batchyard.service.domain.ids import new_file_id
from batchyard.service.domain.records import BatchRecord, FileRecord, Part
from batchyard.service.errors import DataLoss, InvalidArgument, NotFound, Unavailable
from batchyard.service.jsonl.scanner import Scan, Scanner
from batchyard.service.objects.base import WRITE_BYTES, ObjectStore, ObjectWriter, PieceBytes, largest
from batchyard.service.providers.base import (
    Content,
    FileDescription,
    NewBatch,
    Span,
    Upload,
    check_digest,
    check_ours,
    check_size,
    span_within,
)
from batchyard.service.providers.local.batches import OwnBatches
from batchyard.service.registry.tenant import TenantRegistry, no_batch, no_file
from batchyard.service.registry.work import WorkRegistry

_MOST_HELD = 256  # pieces: small ones take many times their bytes


class StoredProvider:
    """A `Provider`. Scans the files that batches may read, with what `scanner` makes.

    `purposes` are those of the files that it takes (None: any), `check` raises InvalidArgument for a batch that it does
    not. Of `limits`, those that bound a file are its own.
    """

    def __init__(
        self,
        name: str,
        store: ObjectStore,
        work: WorkRegistry,
        batches: OwnBatches,
        limits: Limits,
        retention: RetentionSettings,
        places: UploadPlaces,
        clock: Callable[[], float],
        *,
        scanner: Callable[[], Scanner],
        purposes: Collection[str] | None = None,
        check: Callable[[NewBatch], None] = check_ours,
    ) -> None:
        self.name = self.place = name
        self._store = store
        self._work = work
        self._batches = batches
        self._limits = limits
        self._retention = retention
        self.places = places
        self._clock = clock
        self._scanner = scanner
        self._purposes = purposes
        self._check = check

    @asynccontextmanager
    async def upload(self, owner: TenantRegistry, begun: FileDescription) -> AsyncIterator[Upload]:
        self.check_purpose(begun.purpose)
        with self.places.taken(owner) as others:
            await owner.check_uploads(self._limits.file_rate, int(self._clock()), others)
            file_id = new_file_id()
            async with self._store.writer(f"files/{file_id}") as writer:
                scanner = self._scanner() if begun.purpose in {"", "batch"} else None
                yield _StoredUpload(self, owner, begun.purpose, file_id, writer, scanner, self._limits)

    @asynccontextmanager
    async def content(
        self, owner: TenantRegistry, file: FileRecord, span: Span, piece_bytes: PieceBytes = largest
    ) -> AsyncIterator[Content]:
        offset, length = span_within(span, file.bytes)
        pieces = _or_gone(self._store.read(await owner.parts(file), offset, length, piece_bytes), owner, file)
        first = await anext(pieces, b"")  # what can't be read from its start is refused instead of broken off
        yield Content(_chained(first, pieces), file.bytes, offset, length)

    async def file(self, owner: TenantRegistry, file: FileRecord) -> FileRecord:
        return file

    async def delete(self, owner: TenantRegistry, file: FileRecord) -> None:
        """First the row's mark, then the bytes: a crash in between leaves nothing that anybody sees.

        Retention finishes what can't be removed now.
        """
        await owner.delete_file(file.id, "", int(self._clock()))
        with suppress(Unavailable):
            await self.forget(await owner.parts(file))

    async def forget(self, parts: list[Part]) -> None:
        """Removes objects that only deleted files refer to."""
        for part in parts:
            await self._store.delete(part.key)
        await self._work.forget_parts(parts)

    async def create_batch(self, owner: TenantRegistry, new: NewBatch, file: FileRecord | None) -> BatchRecord:
        """The engine looks for the file itself, when it begins; here it says what the batch is reckoned at."""
        self._check(new)
        return await self._batches.add(owner, new, self.name, file)

    async def batch(self, batch: BatchRecord, *, fresh: bool) -> BatchRecord:
        return batch

    async def cancel_batch(self, owner: TenantRegistry, batch: BatchRecord) -> BatchRecord:
        return await self._batches.cancel(owner, batch)

    async def refresh(self, owner: TenantRegistry) -> bool:
        return False

    async def find_file(self, native_id: str) -> FileRecord:
        raise no_file(native_id)

    async def find_batch(self, native_id: str) -> BatchRecord:
        raise no_batch(native_id)

    async def adopt_file(self, tenant: str, native_id: str) -> FileRecord:
        raise no_file(native_id)

    async def adopt_batch(self, tenant: str, native_id: str) -> BatchRecord:
        raise no_batch(native_id)

    async def register(
        self,
        owner: TenantRegistry,
        description: FileDescription,
        file_id: str,
        part: Part,
        found: dict[str, Any],
    ) -> FileRecord:
        """Adds the row of a file whose bytes are durable; `found` is what the scan of a batch input found."""
        now = int(self._clock())
        seconds = description.seconds
        if seconds is None and description.purpose == "batch":
            seconds = self._retention.batch_file_seconds
        values = {
            "id": file_id,
            "provider": self.name,
            "purpose": description.purpose,
            "filename": description.filename,
            "bytes": part.size,
            "created_at": now,
            "expires_at": None if seconds is None else now + seconds,
            "status": "processed",
        }
        return await owner.add_file(values | found, [part])

    async def drop(self, owner: TenantRegistry, file_id: str, part: Part) -> None:
        """Removes the bytes of a file whose row was refused; where that isn't sure, the next start does."""
        with suppress(Exception):  # what is wrong with the row is what its caller learns
            try:
                await owner.get_file(file_id)
            except NotFound:
                await self._store.delete(part.key)

    def check_purpose(self, purpose: str) -> None:
        """Raises InvalidArgument for a purpose, if it is known already, that this place doesn't take."""
        if purpose and self._purposes is not None and purpose not in self._purposes:
            taken = ", ".join(f"'{one}'" for one in self._purposes)
            message = f"Files at '{self.name}' have the purpose {taken}; name a provider for one of '{purpose}'."
            raise InvalidArgument(message, param="purpose")


class _StoredUpload:
    """Scans and stores what comes, a block at a time, in one turn of a thread: what another turn costs is the lock."""

    def __init__(
        self,
        provider: StoredProvider,
        owner: TenantRegistry,
        purpose: str,
        file_id: str,
        writer: ObjectWriter,
        scanner: Scanner | None,
        limits: Limits,
    ) -> None:
        self.size = 0
        self._limits = limits
        self._provider = provider
        self._owner = owner
        self._purpose = purpose
        self._file_id = file_id
        self._writer = writer
        self._scanner = scanner
        self._sha256 = sha256()
        self._held: list[bytes] = []
        self._held_bytes = 0

    async def write(self, data: bytes) -> None:
        self.size += len(data)
        check_size(self.size, self._limits)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= WRITE_BYTES or len(self._held) == _MOST_HELD:
            await self._pass_on()

    async def finish(self, description: FileDescription, digest: bytes | None) -> FileRecord:
        check_size(self.size, self._limits)
        self._provider.check_purpose(description.purpose)
        await self._pass_on()
        check_digest(digest, self._sha256.digest())
        scan = await self._scanned(description)
        await self._writer.commit()
        part = self._writer.part
        found = {"scan": scan.to_dict(), "stats": _stats(scan, self._sha256.hexdigest())} if scan else {}
        try:
            return await self._provider.register(self._owner, description, self._file_id, part, found)
        except Exception:  # a defect of ours leaves no bytes either
            await self._provider.drop(self._owner, self._file_id, part)
            raise

    async def _pass_on(self) -> None:
        """Hashes, scans and writes what is held."""
        data = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        await self._provider.places.read(self._owner, self._read, data)
        await self._writer.write(data)

    def _read(self, data: bytes) -> None:
        self._sha256.update(data)
        self._writer.sum(data)
        if self._scanner:
            self._scanner.feed(data)

    async def _scanned(self, description: FileDescription) -> Scan | None:
        if description.purpose != "batch":
            return None
        if self._scanner is None:
            raise InvalidArgument("'purpose' can't change once data has come", param="purpose")
        scan = await self._provider.places.read(self._owner, self._scanner.finish)
        if scan.refusal:
            raise InvalidArgument(scan.refusal)
        return scan


async def _or_gone(pieces: AsyncIterator[bytes], owner: TenantRegistry, file: FileRecord) -> AsyncIterator[bytes]:
    try:
        async for piece in pieces:
            yield piece
    except DataLoss:
        await owner.get_file(file.id)  # NotFound where it was deleted meanwhile: nothing is damaged then
        raise


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece


def _stats(scan: Scan, digest: str) -> dict[str, object]:
    return {
        "lines": scan.lines,
        "models": list(scan.models),
        "estimated_tokens": scan.estimated_tokens,
        "sha256": digest,
    }
