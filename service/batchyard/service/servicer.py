"""The RPCs of `batchyard.v1.BatchService`, a few lines each: who asks, what exactly, and which provider does it."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

from batchyard.service.auth import current_tenant
from batchyard.service.calls import Context
from batchyard.service.errors import DataLoss, InvalidArgument, NotFound, OutOfRange
from batchyard.service.messages import batch_message, file_message
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.mutations import Mutations
from batchyard.service.registry.database import Database
from batchyard.service.registry.records import FileRecord
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.requests import new_batch, page_limit
from batchyard.service.router import Router
from batchyard.service.uploads import UploadStream
from batchyard.service.watching import Changes, states
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

ACCEPTED = ("batchyard-accepted", "1")
MOST_BATCHES, MOST_FILES = 100, 10_000  # on a page (facts 1.3 and 1.2)
_MOST_PAGE_BYTES = 3 << 20  # a page fits a message of 4 MiB; a shorter one says has_more


class Servicer(BatchServiceServicer):
    """Answers for the tenant that the key interceptor found."""

    def __init__(
        self,
        database: Database,
        router: Router,
        mutations: Mutations,
        changes: Changes,
        metrics: ServiceMetrics,
        *,
        upload_idle_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._router = router
        self._mutations = mutations
        self._changes = changes
        self._metrics = metrics
        self._upload_idle_seconds = upload_idle_seconds
        self._clock = clock

    async def CreateBatch(self, request: CreateBatchRequest, context: Context) -> CreateBatchResponse:
        new, owner = new_batch(request), self._owner()
        provider = self._router.provider(request.provider or await _provider_of(owner, new.input_file_id))
        batch = await self._mutations.run(provider.create_batch(owner, new))
        return CreateBatchResponse(batch=batch_message(batch))

    async def GetBatch(self, request: GetBatchRequest, context: Context) -> GetBatchResponse:
        batch = await self._owner().get_batch(request.batch_id, self._router.checked(request.provider))
        return GetBatchResponse(batch=batch_message(batch))

    async def ListBatches(self, request: ListBatchesRequest, context: Context) -> ListBatchesResponse:
        limit = page_limit(request.limit if request.HasField("limit") else None, 20, MOST_BATCHES)
        provider = self._router.checked(request.provider)
        page, more = await self._owner().list_batches(provider=provider, after=request.after, limit=limit)
        data, cut = _fitting(map(batch_message, page))
        ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
        return ListBatchesResponse(data=data, has_more=more or cut, **ends)

    async def CancelBatch(self, request: CancelBatchRequest, context: Context) -> CancelBatchResponse:
        owner = self._owner()
        batch = await owner.get_batch(request.batch_id, self._router.checked(request.provider))
        batch = await self._mutations.run(self._router.provider(batch.provider).cancel_batch(owner, batch))
        return CancelBatchResponse(batch=batch_message(batch))

    async def WatchBatch(self, request: WatchBatchRequest, context: Context) -> AsyncIterator[WatchBatchResponse]:
        provider = self._router.checked(request.provider)
        async for batch in states(self._owner(), request.batch_id, provider, self._changes):
            yield WatchBatchResponse(batch=batch_message(batch))

    async def UploadFile(
        self, request_iterator: AsyncIterator[UploadFileRequest], context: Context
    ) -> UploadFileResponse:
        await context.send_initial_metadata((ACCEPTED,))
        stream = UploadStream(self._router, self._owner(), self._mutations, self._metrics, self._upload_idle_seconds)
        return UploadFileResponse(file=file_message(await stream.receive(request_iterator)))

    async def GetFile(self, request: GetFileRequest, context: Context) -> GetFileResponse:
        file = await self._owner().get_file(request.file_id, self._router.checked(request.provider))
        return GetFileResponse(file=file_message(file))

    async def ListFiles(self, request: ListFilesRequest, context: Context) -> ListFilesResponse:
        page, more = await self._owner().list_files(
            provider=self._router.checked(request.provider),
            purpose=request.purpose,
            after=request.after,
            limit=page_limit(request.limit if request.HasField("limit") else None, MOST_FILES, MOST_FILES),
            ascending=request.order == SortOrder.SORT_ORDER_ASC,
        )
        data, cut = _fitting(map(file_message, page))
        ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
        return ListFilesResponse(data=data, has_more=more or cut, **ends)

    async def DeleteFile(self, request: DeleteFileRequest, context: Context) -> DeleteFileResponse:
        provider = self._router.checked(request.provider)
        await self._mutations.run(self._delete(self._owner(), request.file_id, provider))
        return DeleteFileResponse(id=request.file_id, deleted=True)

    async def DownloadFile(self, request: DownloadFileRequest, context: Context) -> AsyncIterator[DownloadFileResponse]:
        owner = self._owner()
        file = await owner.get_file(request.file_id, self._router.checked(request.provider))
        offset, length = _range(request, file)
        info = FileContentInfo(
            content_type="application/octet-stream",
            total_size=file.bytes,
            offset=offset,
            length=length,
            etag=f'"{file.id}"',  # a file never changes
            filename=file.filename,
        )
        yield DownloadFileResponse(info=info)
        try:
            async for piece in self._router.provider(file.provider).content(owner, file, offset, length):
                yield DownloadFileResponse(data=piece)
                self._metrics.downloaded.inc(len(piece))
        except DataLoss:
            await owner.get_file(file.id)  # NotFound where it was deleted meanwhile: nothing is damaged then
            raise

    async def _delete(self, owner: TenantRegistry, file_id: str, provider: str) -> None:
        file = await owner.delete_file(file_id, provider, int(self._clock()))
        await self._router.provider(file.provider).delete(owner, file)

    def _owner(self) -> TenantRegistry:
        return TenantRegistry(self._database, current_tenant.get())


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


async def _provider_of(owner: TenantRegistry, file_id: str) -> str:
    """Where a batch over this file goes; a file that isn't there makes its batch fail, at the default."""
    try:
        return (await owner.get_file(file_id)).provider
    except NotFound:
        return ""


def _range(request: DownloadFileRequest, file: FileRecord) -> tuple[int, int]:
    """Offset and length of what is asked for. Raises OutOfRange where it starts behind the end, InvalidArgument."""
    if request.read_limit < 0:
        raise InvalidArgument("Invalid 'read_limit': expected a value >= 0.", param="read_limit")
    start = request.read_offset
    offset = max(0, file.bytes + start) if start < 0 else start
    if offset > file.bytes or (offset == file.bytes and start > 0):
        message = f"The file has {file.bytes} bytes; a read can't start at {start}."
        raise OutOfRange(message, param="read_offset")
    left = file.bytes - offset
    return offset, min(left, request.read_limit) if request.read_limit > 0 else left
