"""The RPCs of `batchyard.v1.BatchService`, a few lines each: who asks, what exactly, and which provider does it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar

from batchyard.common.calls import ACCEPTED, BOUNDS, NOTE
from batchyard.service.access.authenticator import Authenticator
from batchyard.service.access.caller import current_caller
from batchyard.service.access.downloads import DownloadShares
from batchyard.service.access.upload_slots import StorageReservations
from batchyard.service.api.message_reader import Context
from batchyard.service.api.messages import batch_message, file_message
from batchyard.service.api.upload_stream import UploadStream
from batchyard.service.api.validation import new_batch, page_limit, required
from batchyard.service.background import Mutations
from batchyard.service.config.names import GROUPS
from batchyard.service.domain.quotas import Allowances
from batchyard.service.domain.records import BatchRecord, FileRecord
from batchyard.service.errors import InvalidArgument, NotFound, Unsure
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.providers.base import Span, check_groups
from batchyard.service.providers.router import Lookup, Router
from batchyard.service.registry.base import Database
from batchyard.service.registry.change_feed import BatchState, Changes, Watches
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.v1 import (
    Batch,
    BatchServiceServicer,
    CancelBatchRequest,
    CancelBatchResponse,
    CreateBatchRequest,
    CreateBatchResponse,
    DeleteFileRequest,
    DeleteFileResponse,
    DownloadFileRequest,
    DownloadFileResponse,
    File,
    FileContentInfo,
    GetBatchRequest,
    GetBatchResponse,
    GetFileRequest,
    GetFileResponse,
    ListBatchesRequest,
    ListBatchesResponse,
    ListFilesRequest,
    ListFilesResponse,
    SortOrder,
    UploadFileRequest,
    UploadFileResponse,
    WatchBatchRequest,
    WatchBatchResponse,
)

Listed = TypeVar("Listed", Batch, File)

MOST_BATCHES, MOST_FILES = 100, 10_000  # on a page (facts 1.3 and 1.2)
_MOST_PAGE_BYTES = 3 << 20  # a page fits a message of 4 MiB; a shorter one says has_more


class Placed(Protocol):
    """A request that may say where it goes."""

    provider: str

    @property
    def models(self) -> Collection[str]: ...


class Servicer(BatchServiceServicer):
    """Answers for the tenant that the key interceptor found."""

    def __init__(
        self,
        database: Database,
        keys: Authenticator,
        router: Router,
        mutations: Mutations,
        changes: Changes,
        allowances: Allowances,
        metrics: ServiceMetrics,
        clock: Callable[[], float],
        *,
        upload_idle_seconds: float,
        create_seconds: float,
        bounds: str = "",
        notes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """A creation that takes more than `create_seconds` goes on, and its caller is told not to repeat it.

        `bounds` are those of inputs, as `BOUNDS` has them; `notes` are for those who create a batch at a provider.
        """
        self._database = database
        self._keys = keys
        self._router = router
        self._lookup = Lookup(router)
        self._mutations = mutations
        self._watches = Watches(changes, self._state)
        self._allowances = allowances
        self._arrivals = StorageReservations()
        self._downloads = DownloadShares()
        self._metrics = metrics
        self._clock = clock
        self._upload_idle_seconds = upload_idle_seconds
        self._bounds = bounds
        self._notes = notes
        self._create_seconds = create_seconds

    async def CreateBatch(self, request: CreateBatchRequest, context: Context) -> CreateBatchResponse:
        began = self._clock()
        new, key, place = new_batch(request), current_caller.get().key, self._place(request)
        file = await self._input(new.input_file_id, place) if new.input_file_id else None
        provider = self._router.of(file) if file else self._router.provider(place, key)
        if key and provider.name == GROUPS:
            check_groups(key, new, file)
        if provider.name in self._notes:
            await context.send_initial_metadata(((NOTE, self._notes[provider.name]),))
        creating = self._mutations.run(provider.create_batch(self._owner(), new, file))
        try:
            async with asyncio.timeout(self._create_seconds):
                batch = await creating
        except TimeoutError:
            raise Unsure("The batch may or may not have been created. It is listed as soon as it is found.") from None
        return CreateBatchResponse(batch=batch_message(batch, now=began))

    async def GetBatch(self, request: GetBatchRequest, context: Context) -> GetBatchResponse:
        began = self._clock()
        batch = await self._batch(request)
        batch = await self._router.latest(batch, fresh=request.fresh)
        return GetBatchResponse(batch=await self._told(batch, began))

    async def ListBatches(self, request: ListBatchesRequest, context: Context) -> ListBatchesResponse:
        limit = page_limit(request.limit if request.HasField("limit") else None, 20, MOST_BATCHES)
        provider = self._place(request)
        page, more = await self._owner().list_batches(provider=provider, after=request.after, limit=limit)
        placed = await self._owner().placements(page)
        now = self._clock()
        data, cut = _fitting(batch_message(batch, placed.get(batch.seq, ()), now) for batch in page)
        ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
        return ListBatchesResponse(data=data, has_more=more or cut, **ends)

    async def CancelBatch(self, request: CancelBatchRequest, context: Context) -> CancelBatchResponse:
        began = self._clock()
        batch = await self._batch(request)
        batch = await self._mutations.run(self._router.of(batch).cancel_batch(self._owner(), batch))
        return CancelBatchResponse(batch=await self._told(batch, began))

    async def WatchBatch(self, request: WatchBatchRequest, context: Context) -> AsyncIterator[WatchBatchResponse]:
        required(request.batch_id, "batch_id")
        provider = self._place(request)
        key = current_caller.get().key

        async def check() -> None:
            await self._keys.check(key)

        async for batch, placed in self._watches.states(self._owner(), request.batch_id, provider, check):
            yield WatchBatchResponse(batch=batch_message(batch, placed, self._clock()))

    async def UploadFile(
        self, request_iterator: AsyncIterator[UploadFileRequest], context: Context
    ) -> UploadFileResponse:
        await context.send_initial_metadata(((ACCEPTED, "1"), (BOUNDS, self._bounds)))
        stream = UploadStream(
            self._router,
            current_caller.get(),
            self._owner(),
            self._mutations,
            self._arrivals,
            self._metrics,
            self._upload_idle_seconds,
        )
        return UploadFileResponse(file=file_message(await stream.receive(request_iterator)))

    async def GetFile(self, request: GetFileRequest, context: Context) -> GetFileResponse:
        file = await self._file(request)
        file = await self._router.of(file).file(self._owner(), file)
        return GetFileResponse(file=file_message(file))

    async def ListFiles(self, request: ListFilesRequest, context: Context) -> ListFilesResponse:
        page, more = await self._owner().list_files(
            provider=self._place(request),
            purpose=request.purpose,
            after=request.after,
            limit=page_limit(request.limit if request.HasField("limit") else None, MOST_FILES, MOST_FILES),
            ascending=request.order == SortOrder.SORT_ORDER_ASC,
        )
        data, cut = _fitting(map(file_message, page))
        ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
        return ListFilesResponse(data=data, has_more=more or cut, **ends)

    async def DeleteFile(self, request: DeleteFileRequest, context: Context) -> DeleteFileResponse:
        file = await self._file(request)
        await self._mutations.run(self._router.of(file).delete(self._owner(), file))
        return DeleteFileResponse(id=request.file_id, deleted=True)

    async def DownloadFile(self, request: DownloadFileRequest, context: Context) -> AsyncIterator[DownloadFileResponse]:
        if request.read_limit < 0:
            raise InvalidArgument("Invalid 'read_limit': expected a value >= 0.", param="read_limit")
        file = await self._file(request)
        span = Span(request.read_offset, request.read_limit)
        with self._downloads.opened() as piece_bytes:
            async with self._router.of(file).content(self._owner(), file, span, piece_bytes) as content:
                info = FileContentInfo(
                    content_type="application/octet-stream",
                    total_size=content.total,
                    offset=content.offset,
                    length=content.length,
                    etag=f'"{file.id}"',  # a file never changes
                    filename=file.filename,
                )
                yield DownloadFileResponse(info=info)
                async for piece in content.pieces:
                    yield DownloadFileResponse(data=piece)
                    self._metrics.downloaded.inc(len(piece))

    async def _input(self, file_id: str, place: str) -> FileRecord | None:
        """A batch's input, where the batch goes; one that isn't there makes it fail, at the place or the default."""
        try:
            return await self._lookup.file(current_caller.get(), self._owner(), file_id, place)
        except NotFound:
            return None

    async def _file(self, request: GetFileRequest | DeleteFileRequest | DownloadFileRequest) -> FileRecord:
        file_id = required(request.file_id, "file_id")
        return await self._lookup.file(current_caller.get(), self._owner(), file_id, self._place(request))

    async def _batch(self, request: GetBatchRequest | CancelBatchRequest) -> BatchRecord:
        batch_id = required(request.batch_id, "batch_id")
        return await self._lookup.batch(current_caller.get(), self._owner(), batch_id, self._place(request))

    async def _state(self, batch: BatchRecord) -> BatchState:
        """What a batch is now, for whoever may see it."""
        owner = TenantRegistry(self._database, batch.tenant)
        latest = await owner.get_batch(batch.id)
        return BatchState(latest, (await owner.placements([latest])).get(batch.seq, ()))

    async def _told(self, batch: BatchRecord, now: float) -> Batch:
        placed = await self._owner().placements([batch])
        return batch_message(batch, placed.get(batch.seq, ()), now)

    def _place(self, request: Placed) -> str:
        caller = current_caller.get()
        return self._router.place_of(request.provider, request.models, caller.key, azure=caller.azure)

    def _owner(self) -> TenantRegistry:
        caller = current_caller.get()
        bounds = self._allowances.of(caller.tenant, caller.key)
        return TenantRegistry(self._database, caller.tenant, caller.key, self._router.homes, bounds)


def _fitting(messages: Iterable[Listed]) -> tuple[list[Listed], bool]:
    """The messages that fit a page, at least one, and whether any did not."""
    page: list[Listed] = []
    size = 0
    for message in messages:
        size += message.ByteSize()
        if page and size > _MOST_PAGE_BYTES:
            return page, True
        page.append(message)
    return page, False
