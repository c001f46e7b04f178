"""The upload stream of the contract: metadata, data, metadata again where fields came late, and always a finish."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from batchyard.service.access.upload_slots import StorageReservation, StorageReservations
from batchyard.service.api.validation import begun_file, check_upload, file_description
from batchyard.service.background import Mutations
from batchyard.service.domain.keys import Caller
from batchyard.service.domain.records import FileRecord
from batchyard.service.errors import InvalidArgument, Late
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.providers.base import Provider, Upload
from batchyard.service.providers.router import Router
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.v1 import UploadFileFinish, UploadFileMetadata, UploadFileRequest

MOST_PIECE = 1 << 20
MOST_DESCRIPTIONS = 64


class UploadStream:
    """One upload from its first message to its file; nothing is left where it ends otherwise."""

    def __init__(
        self,
        router: Router,
        caller: Caller,
        owner: TenantRegistry,
        mutations: Mutations,
        arrivals: StorageReservations,
        metrics: ServiceMetrics,
        idle_seconds: float,
    ) -> None:
        self._router = router
        self._caller = caller
        self._owner = owner
        self._mutations = mutations
        self._arrivals = arrivals
        self._received = metrics.uploaded
        self._idle_seconds = idle_seconds
        self._metadata: UploadFileMetadata | None = None
        self._provider: Provider | None = None
        self._upload: Upload | None = None
        self._arrival: StorageReservation | None = None
        self._descriptions = 0

    async def receive(self, messages: AsyncIterator[UploadFileRequest]) -> FileRecord:
        """Raises InvalidArgument for a stream that breaks the protocol or its rules, Late for one that goes silent.

        A cancelled call looks like a stream that ended: without `finish` it is never committed.
        """
        async with AsyncExitStack() as stack:
            while (message := await self._next(messages)) is not None:
                match message.WhichOneof("payload"):
                    case "metadata":
                        self._describe(message.metadata)
                    case "data":
                        await self._take(message.data, stack)
                    case "finish":
                        return await self._mutations.run(self._finish(message.finish, stack.pop_all()))
                    case _:
                        raise InvalidArgument("An upload message carries metadata, data or finish.", param="payload")
        raise InvalidArgument(
            "The upload ended without its finish message; nothing was kept.", reason="UPLOAD_INCOMPLETE"
        )

    async def _next(self, messages: AsyncIterator[UploadFileRequest]) -> UploadFileRequest | None:
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await anext(messages, None)
        except TimeoutError:
            raise Late(f"The upload sent nothing for {self._idle_seconds:g} seconds.") from None

    def _describe(self, metadata: UploadFileMetadata) -> None:
        self._descriptions += 1
        if self._descriptions > MOST_DESCRIPTIONS:
            raise InvalidArgument(f"An upload has at most {MOST_DESCRIPTIONS} metadata messages.", param="metadata")
        if self._metadata is None:
            self._metadata = UploadFileMetadata()
        elif self._provider and (metadata.provider or metadata.models) and self._named(metadata) is not self._provider:
            raise InvalidArgument("The provider can't change once data has come.", param="provider")
        if metadata.models:
            self._metadata.ClearField("models")
        self._metadata.MergeFrom(metadata)
        self._metadata.DiscardUnknownFields()  # they would add up
        check_upload(self._metadata)

    async def _take(self, data: bytes, stack: AsyncExitStack) -> None:
        if not 0 < len(data) <= MOST_PIECE:  # an empty one would only keep the stream awake
            raise InvalidArgument(
                f"A piece of data has 1 to {MOST_PIECE} bytes, but this one has {len(data)}.", param="data"
            )
        self._received.inc(len(data))
        upload, arrival = await self._opened(stack)
        arrival.take(len(data))
        await upload.write(data)

    async def _opened(self, stack: AsyncExitStack) -> tuple[Upload, StorageReservation]:
        if self._metadata is None:
            raise InvalidArgument("An upload begins with its metadata.", param="metadata")
        if self._upload is None or self._arrival is None:
            self._provider = self._named(self._metadata)
            begun = begun_file(self._metadata)
            self._arrival = await stack.enter_async_context(self._arrivals.arriving(self._owner, begun.announced))
            self._upload = await stack.enter_async_context(self._provider.upload(self._owner, begun))
        return self._upload, self._arrival

    def _named(self, metadata: UploadFileMetadata) -> Provider:
        key = self._caller.key
        place = self._router.place_of(metadata.provider, metadata.models, key, azure=self._caller.azure)
        return self._router.provider(place, key)

    async def _finish(self, finish: UploadFileFinish, stack: AsyncExitStack) -> FileRecord:
        async with stack:
            upload, arrival = await self._opened(stack)
            if finish.size != upload.size:
                raise InvalidArgument(
                    f"The upload finished with size {finish.size}, but {upload.size} bytes came.", param="finish.size"
                )
            await arrival.check()
            description = file_description(self._metadata or UploadFileMetadata())
            return await upload.finish(description, finish.sha256 if finish.HasField("sha256") else None)
