"""The embedded provider: files in our own store, batches that our own engine runs line by line."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

from batchyard.common.tracing import Tracing
from batchyard.service.engine.engine import Engine
from batchyard.service.errors import Busy, InvalidArgument, TooLarge
from batchyard.service.filestore import FileStore, Part, Writer
from batchyard.service.identifiers import new_batch_id, new_file_id
from batchyard.service.jsonl import Scan, Scanner
from batchyard.service.providers.base import FileDescription, NewBatch, Upload
from batchyard.service.registry.records import BatchRecord, FileRecord, Status
from batchyard.service.registry.tenant import Rate, TenantRegistry
from batchyard.service.registry.work import WorkRegistry
from batchyard.service.settings import Limits, LocalSettings, Retention

_PIECE = 256 << 10
_WINDOW_SECONDS = 86_400  # of a completion window of 24h, the only one (facts 1.4)


class LocalProvider:
    """A `Provider`. Takes files of any purpose; scans those that batches may read."""

    name = "local"

    def __init__(
        self,
        store: FileStore,
        work: WorkRegistry,
        engine: Engine,
        settings: LocalSettings,
        limits: Limits,
        retention: Retention,
        tracing: Tracing,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._work = work
        self._engine = engine
        self._settings = settings
        self._limits = limits
        self._retention = retention
        self._tracing = tracing
        self._clock = clock
        self._uploads = 0

    @asynccontextmanager
    async def upload(self, owner: TenantRegistry, purpose: str) -> AsyncIterator[Upload]:
        if self._uploads >= self._limits.max_concurrent_uploads:
            raise Busy(f"More than {self._limits.max_concurrent_uploads} uploads are under way. Try again soon.")
        self._uploads += 1
        try:
            await owner.check_uploads(_rate(self._limits.max_files_per_minute, 60), int(self._clock()))
            file_id = new_file_id()
            async with self._store.writer(f"files/{file_id}") as writer:
                scanner = self._scanner() if purpose in {"", "batch"} else None
                yield _LocalUpload(self, owner, purpose, file_id, writer, scanner)
        finally:
            self._uploads -= 1

    async def content(self, owner: TenantRegistry, file: FileRecord, offset: int, length: int) -> AsyncIterator[bytes]:
        async for piece in self._store.read(await owner.parts(file), offset, length):
            yield piece

    async def delete(self, owner: TenantRegistry, file: FileRecord) -> None:
        await self.forget(await owner.parts(file))

    async def forget(self, parts: list[Part]) -> None:
        """Removes objects that only deleted files refer to."""
        for part in parts:
            await self._store.delete(part.key)
        await self._work.forget_parts(parts)

    async def create_batch(self, owner: TenantRegistry, new: NewBatch) -> BatchRecord:
        now = int(self._clock())
        values = {
            "id": new_batch_id(),
            "provider": self.name,
            "endpoint": new.endpoint,
            "input_file_id": new.input_file_id,
            "completion_window": new.completion_window,
            "status": Status.VALIDATING,
            "created_at": now,
            "expires_at": now + _WINDOW_SECONDS,
            "metadata": new.metadata,
            "output_seconds": new.output_seconds or self._retention.output_file_seconds,
            "traceparent": self._tracing.carrier().get("traceparent"),
        }
        rate = _rate(self._limits.max_batches_per_hour, 3600)
        batch = await owner.add_batch(values, new.once(self.name, now), rate)
        self._engine.wake()
        return batch

    async def cancel_batch(self, owner: TenantRegistry, batch: BatchRecord) -> BatchRecord:
        cancelling = await owner.cancel_batch(batch.id, "", int(self._clock()))
        self._engine.changed(batch)
        return cancelling

    def check_size(self, size: int, purpose: str) -> None:
        """Raises TooLarge. OpenAI's wording for batch inputs (facts 3.5) has no room for a file without a model."""
        most = self._limits.max_batch_file_bytes if purpose == "batch" else self._limits.max_file_bytes
        if size > most:
            kind = "batch input file" if purpose == "batch" else "file"
            raise TooLarge(f"The {kind} is larger than the maximum of {most} bytes.", param="file")

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

    def _scanner(self) -> Scanner:
        return Scanner(
            self._limits,
            chunk_lines=self._settings.chunk_lines,
            chunk_bytes=self._settings.chunk_bytes,
            models=self._settings.models,
        )


class _LocalUpload:
    """Scans and stores what comes, `_PIECE` bytes at a time."""

    def __init__(
        self,
        provider: LocalProvider,
        owner: TenantRegistry,
        purpose: str,
        file_id: str,
        writer: Writer,
        scanner: Scanner | None,
    ) -> None:
        self.size = 0
        self._provider = provider
        self._owner = owner
        self._purpose = purpose
        self._file_id = file_id
        self._writer = writer
        self._scanner = scanner
        self._sha256 = sha256()
        self._held = bytearray()

    async def write(self, data: bytes) -> None:
        self.size += len(data)
        self._provider.check_size(self.size, self._purpose)
        self._held += data
        if len(self._held) >= _PIECE:
            await self._pass_on()

    async def finish(self, description: FileDescription, digest: bytes | None) -> FileRecord:
        self._provider.check_size(self.size, description.purpose)
        await self._pass_on()
        if digest is not None and digest != self._sha256.digest():
            raise InvalidArgument("The content does not have the SHA-256 that was announced.", param="finish.sha256")
        scan = await self._scanned(description)
        await self._writer.commit()
        part = Part(f"files/{self._file_id}", self.size)
        found = {"scan": scan.to_dict(), "stats": _stats(scan, self._sha256.hexdigest())} if scan else {}
        return await self._provider.register(self._owner, description, self._file_id, part, found)

    async def _pass_on(self) -> None:
        """Hashes, scans and writes a piece, the first two side by side: hashing needs no interpreter lock."""
        held, self._held = bytes(self._held), bytearray()
        hashed = asyncio.create_task(asyncio.to_thread(self._sha256.update, held))
        if self._scanner:
            await asyncio.to_thread(self._scanner.feed, held)
        await hashed
        await self._writer.write(held)

    async def _scanned(self, description: FileDescription) -> Scan | None:
        if description.purpose != "batch":
            return None
        if self._scanner is None:
            raise InvalidArgument("'purpose' can't change once data has come", param="purpose")
        scan = await asyncio.to_thread(self._scanner.finish)
        if scan.refusal:
            raise InvalidArgument(scan.refusal)
        return scan


def _rate(most: int | None, seconds: int) -> Rate | None:
    return Rate(most, seconds) if most else None


def _stats(scan: Scan, digest: str) -> dict[str, object]:
    return {
        "lines": scan.lines,
        "models": list(scan.models),
        "estimated_tokens": scan.estimated_tokens,
        "sha256": digest,
    }
