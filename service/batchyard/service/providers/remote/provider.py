"""Files and batches at a deployment of another provider: OpenAI, Azure, or whatever speaks OpenAI's API."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import httpx
import msgspec
from grpc import StatusCode

from batchyard.service.access.upload_slots import UploadPlaces
from batchyard.service.config.settings import Deployment, Limits, UpstreamSettings
from batchyard.service.domain.ids import is_id
from batchyard.service.domain.names import INTERNAL
from batchyard.service.domain.records import ENDED, BatchRecord, FileRecord
from batchyard.service.errors import (
    DataLoss,
    FailedPrecondition,
    NotFound,
    OutOfRange,
    Refused,
    Unavailable,
    Unsure,
    Unusable,
)
from batchyard.service.objects.base import PieceBytes, largest
from batchyard.service.providers.base import (
    Content,
    FileDescription,
    NewBatch,
    Span,
    Upload,
    check_ours,
    check_theirs,
    span_within,
)
from batchyard.service.providers.local.batches import OwnBatches
from batchyard.service.providers.openai.dialect import Members, OpenAI
from batchyard.service.providers.remote.columns import adopted_values, file_values, unfinished
from batchyard.service.providers.remote.create import Creating
from batchyard.service.providers.remote.deployment_api import DeploymentApi
from batchyard.service.providers.remote.fields import identifier
from batchyard.service.providers.remote.poller import Follower
from batchyard.service.providers.remote.read_through import ReadThrough
from batchyard.service.providers.remote.upload import StreamingUpload
from batchyard.service.registry.deployment import RemoteRegistry
from batchyard.service.registry.tenant import TenantRegistry, no_batch, no_file
from batchyard.service.upstream import errors
from batchyard.service.upstream.body import codings_of
from batchyard.service.upstream.client import UpstreamClient, segment
from batchyard.service.upstream.health import HealthState

R = TypeVar("R", FileRecord, BatchRecord)

_PAGES = 100
_READY_SECONDS = 10.0  # how long a creation waits for its input to be processed
_READY_PAUSE = 0.5
_NO_BOUND = Limits(max_file_bytes=sys.maxsize)  # the service's own inputs have their member's
_UNRECKONED = {"epoch": 0, "estimated_tokens": 0, "estimated_lines": 0}
_SIZE = re.compile(r"[0-9]{1,18}")  # fits 64 bits
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class RemoteProvider:
    """A `Provider` for one deployment."""

    def __init__(
        self,
        client: UpstreamClient,
        dialect: OpenAI,
        registry: RemoteRegistry,
        creating: Creating,
        follower: Follower,
        batches: OwnBatches,
        settings: UpstreamSettings,
        limits: Limits,
        places: UploadPlaces,
        clock: Callable[[], float],
    ) -> None:
        self.deployment = client.deployment
        self.condition = client.condition
        self.name: str = client.deployment.provider
        self.place = client.deployment.name
        self._client = client
        self._api = DeploymentApi(client, dialect)
        self._dialect = dialect
        self._registry = registry
        self._follower = follower
        self._looks = ReadThrough(self._api, follower, dialect.poll_seconds, clock)
        self._batches = batches
        self._creating = creating
        self._settings = settings
        self._limits = limits
        self._places = places
        self._clock = clock
        self._probing = asyncio.Lock()

    @property
    def available(self) -> bool:
        """Whether work may be sent there now."""
        return self.condition.state is not HealthState.UNHEALTHY

    @property
    def waits_for_files(self) -> bool:
        """Whether a batch can be created over an input only once that is processed."""
        return self._dialect.waits_for_files

    async def probe(self, since: float = 0.0) -> None:
        """Finds out how the deployment is, unless that is known since less than `since` seconds."""
        async with self._probing:  # who comes meanwhile has the answer too
            if self.condition.age >= since:
                await self._client.probe("batches", "/batches", {"limit": "1"})

    @asynccontextmanager
    async def upload(self, owner: TenantRegistry, begun: FileDescription) -> AsyncIterator[Upload]:
        async def register(answer: dict[str, Any], stats: dict[str, Any] | None) -> FileRecord:
            members = self._api.read_file(answer)
            if members is None:
                raise Unusable("The provider accepted the file, but its answer does not say which one it is.")
            values = {**self._values(members), "stats": stats}
            file = await self._registry.add_file(owner.tenant, members["id"], values, owner.key_id)
            if file.tenant != owner.tenant:
                raise Unsure("The provider's answer names a file that was there before.")
            return file

        with self._places.taken(owner) as others:
            await owner.check_uploads(self._limits.file_rate, int(self._clock()), others)
            limits = _NO_BOUND if owner.tenant == INTERNAL else self._limits
            idle, read = self._settings.idle_seconds, partial(self._places.read, owner)
            sending = StreamingUpload(self._client, self._dialect, begun, limits, idle, register, read)
            try:
                yield sending
            finally:
                await sending.close()

    @asynccontextmanager
    async def content(
        self, owner: TenantRegistry, file: FileRecord, span: Span, piece_bytes: PieceBytes = largest
    ) -> AsyncIterator[Content]:
        path = f"/files/{segment(_native(file))}/content"
        try:
            async with self._client.download("files.content", path, _range(span)) as response:
                yield _content(self._client.pieces(response, piece_bytes), self._client.deployment, response, span)
        except Refused as error:
            if error.upstream.http_status != 416:
                raise
            raise OutOfRange(f"A read of '{file.id}' can't start at {span.offset}.", param="read_offset") from None

    async def file(self, owner: TenantRegistry, file: FileRecord) -> FileRecord:
        """Asks where the registry knows less than the deployment: a file that is not processed, or never described."""
        if file.seq == 0 or (file.upstream is not None and file.status == "processed"):
            return file
        members = await self._api.file(_native(file))
        return await self._registry.describe(file, self._values(members, file))

    async def delete(self, owner: TenantRegistry, file: FileRecord) -> None:
        """First there, then here: what fails there can be tried again, and what is gone there already is no failure."""
        async with self._registry.removing(owner, file):
            await self._api.delete_file(_native(file))
            if file.seq:
                await self._registry.mark_deleted(file, int(self._clock()))

    async def inputs(self) -> AsyncIterator[dict[str, str]]:
        """The inputs of batches that the deployment holds, whoever sent them: names by id, in pages."""
        async for entries in self._api.inputs(_PAGES):
            yield {found: str(entry.get("filename")) for entry in entries if (found := identifier(entry.get("id")))}

    async def discard(self, file_id: str) -> None:
        """Removes a file that is not registered."""
        await self._api.delete_file(file_id)

    async def create_batch(self, owner: TenantRegistry, new: NewBatch, file: FileRecord | None) -> BatchRecord:
        check_theirs(new)
        if file is None and not new.input_blob:
            return await self._without_input(owner, new)
        if file and self.waits_for_files:
            await self._ready(owner, file)
        try:
            made = await self._creating.run(owner, new, _native(file) if file else "", file)
            self._follower.created(made)
            return made
        except NotFound:  # the input was deleted meanwhile
            return await self._without_input(owner, new)
        finally:
            self._follower.wake()  # to follow a batch, or to look for one

    async def made(self, owner: TenantRegistry, key: str) -> BatchRecord | None:
        """The batch that was created under an idempotency key; None: it is sure that there is none.

        Raises Unsure as long as that is open, Refused where the deployment can't be asked.
        """
        try:
            return await self._creating.made(owner, key)
        finally:
            self._follower.wake()

    async def batch(self, batch: BatchRecord, *, fresh: bool) -> BatchRecord:
        if batch.deployment is None or batch.seq == 0:  # it isn't there, or was asked for just now
            return batch
        return await (self._looks.now(batch) if fresh else self._looks.lately(batch))

    async def cancel_batch(self, owner: TenantRegistry, batch: BatchRecord) -> BatchRecord:
        if batch.deployment is None:
            return await self._batches.cancel(owner, batch)
        if batch.seq and batch.status in ENDED and batch.status != "cancelled":
            message = f"Cannot cancel a batch with status '{batch.status}'."
            raise FailedPrecondition(message, reason="BATCH_ENDED")
        members = await self._api.cancel(_native(batch))
        if batch.seq == 0:
            return self._unregistered(members)
        return await self._follower.seen(batch, members)

    async def refresh(self, owner: TenantRegistry) -> bool:
        return await self._follower.refresh(owner.tenant)

    async def find_file(self, native_id: str) -> FileRecord:
        members = await _existing(self._api.file, native_id, no_file)
        ids = {"seq": 0, "id": native_id, "tenant": "", "deployment": self.place, "native_id": native_id}
        return _record(FileRecord, {**self._values(members), **ids})

    async def find_batch(self, native_id: str) -> BatchRecord:
        return self._unregistered(await _existing(self._api.batch, native_id, no_batch))

    async def adopt_file(self, tenant: str, native_id: str) -> FileRecord:
        members = await _existing(self._api.file, native_id, no_file)
        return await self._registry.add_file(tenant, native_id, self._values(members))

    async def adopt_batch(self, tenant: str, native_id: str) -> BatchRecord:
        members = await _existing(self._api.batch, native_id, no_batch)
        values = unfinished(adopted_values(members, self.name, int(self._clock())))
        batch = await self._registry.adopt_batch(tenant, native_id, values)
        if batch.tenant != tenant:
            return batch
        self._follower.wake()
        return await self._follower.seen(batch, members)

    async def _without_input(self, owner: TenantRegistry, new: NewBatch) -> BatchRecord:
        """A batch that fails: it never gets to the deployment, so nobody else checks it."""
        check_ours(new)
        return await self._batches.add(owner, new, self.name, None)

    async def _ready(self, owner: TenantRegistry, file: FileRecord) -> None:
        """Waits until the deployment has processed an input, where it refuses the batch without that."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + _READY_SECONDS, _READY_PAUSE
        while (file := await self.file(owner, file)).status == "uploaded":
            if loop.time() + pause > end:
                raise Unavailable(f"File '{file.id}' is still being processed by its provider. Try again in a moment.")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _values(self, members: Members, known: FileRecord | None = None) -> dict[str, Any]:
        return file_values(members, self.name, int(self._clock()), known)

    def _unregistered(self, members: Members) -> BatchRecord:
        values = adopted_values(members, self.name, int(self._clock()))
        named = {name: members.get(name) for name in ("output_file_id", "error_file_id")}
        ids = {"id": members["id"], "native_id": members["id"], "deployment": self.place}
        return _record(BatchRecord, {**values, **named, **ids, "seq": 0, "tenant": "", **_UNRECKONED})


async def _existing(
    ask: Callable[[str], Awaitable[Members]], native_id: str, missing: Callable[[str], NotFound]
) -> Members:
    """What is at the deployment under an id that a caller names. Raises what `missing` gives where nothing is."""
    if not is_id(native_id):
        raise missing(native_id)
    try:
        return await ask(native_id)
    except Refused as error:
        raise missing(native_id) if error.upstream.http_status == 404 else error from None


def _record(kind: type[R], values: Mapping[str, Any]) -> R:
    """A record that no row stands for; what is not given is null."""
    return msgspec.convert({name: values.get(name) for name in kind.__struct_fields__}, kind)


def _native(record: FileRecord | BatchRecord) -> str:
    if record.native_id is None:
        raise DataLoss(f"'{record.id}' is at no deployment.")
    return record.native_id


def _range(span: Span) -> dict[str, str]:
    if span.offset < 0:
        return {"range": f"bytes={span.offset}"}
    if not span.offset and not span.limit:
        return {}
    last = span.offset + span.limit - 1 if span.limit else ""
    return {"range": f"bytes={span.offset}-{last}"}


def _content(pieces: AsyncIterator[bytes], deployment: Deployment, response: httpx.Response, span: Span) -> Content:
    """What is coming. A deployment that ignores ranges sends the whole file: then what wasn't asked for is left out."""
    announced, packed = response.headers.get("content-length", ""), codings_of(response.headers)
    length = int(announced) if _SIZE.fullmatch(announced) and not packed else None
    if response.status_code == 206 and not packed:
        offset, length, total = _given(response.headers.get("content-range", ""), span)
        if span.offset < 0 < span.limit:  # of an end, HTTP can't ask for the beginning only
            wanted = min(length, span.limit)
            return Content(_part(_whole(pieces, length), 0, wanted), total, offset, wanted)
        return Content(_whole(pieces, length), total, offset, length)
    if span == Span() and response.status_code != 206:
        return Content(_whole(pieces, length), length, 0, length)
    if length is None:
        raise Refused(
            StatusCode.UNIMPLEMENTED,
            "The provider can't send a part of this file.",
            errors.upstream(deployment, response),
            reason="NO_RANGES",
        )
    offset, wanted = span_within(span, length)
    return Content(_part(_whole(pieces, length), offset, wanted), length, offset, wanted)


def _given(header: str, span: Span) -> tuple[int, int, int | None]:
    """Where a part of a file begins, its length, and the file's, if that is known. Raises DataLoss for another part."""
    given = _CONTENT_RANGE.fullmatch(header)
    if not given:
        raise DataLoss("The provider sent a part of the file without saying which.")
    first, end, total = int(given[1]), int(given[2]) + 1, int(given[3]) if given[3] != "*" else None
    to_the_end = span.offset < 0 or not span.limit
    last = end if to_the_end else span.offset + span.limit
    last = last if total is None else total if to_the_end else min(last, total)
    misplaced = first != span.offset if span.offset >= 0 else total is not None and first != max(0, total + span.offset)
    if misplaced or end <= first or end > last or (total is not None and end < last):
        raise DataLoss("The provider sent another part of the file than was asked for.")
    return first, end - first, total


async def _whole(pieces: AsyncIterator[bytes], length: int | None) -> AsyncIterator[bytes]:
    """All of it. Raises DataLoss where it ends too early, so that no short file looks whole."""
    came = 0
    async for piece in pieces:
        came += len(piece)
        yield piece
    if length is not None and came != length:
        raise DataLoss(f"The provider sent {came} of {length} bytes.")


async def _part(pieces: AsyncIterator[bytes], skip: int, wanted: int) -> AsyncIterator[bytes]:
    async with aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            part = piece[skip : skip + wanted]
            skip = max(0, skip - len(piece))
            wanted -= len(part)
            if part:
                yield part
            if not wanted:
                return
