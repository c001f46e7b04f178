import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from tests.harness import plain_client
from tests.ways import alone, pytest_generate_tests, shim_is  # noqa: F401

from batchyard.common.calls import Caller
from batchyard.common.http.listeners import listening
from batchyard.common.tracing import OFF
from batchyard.service.api.in_process import DirectCaller, Handlers
from batchyard.service.api.message_reader import perform, read_here
from batchyard.shim.app import create_app
from batchyard.shim.caller import connect
from batchyard.v1 import (
    ApiError,
    BatchServiceServicer,
    DownloadFileResponse,
    UploadFileRequest,
    UploadFileResponse,
    WatchBatchResponse,
    add_BatchServiceServicer_to_server,
)

SERVICE = "batchyard.v1.BatchService"

Context = Any


@dataclass
class Refusal:
    """What a fake call fails with: bare without a reason, with our details otherwise."""

    code: grpc.StatusCode
    message: str = "raw words"
    reason: str = ""
    api: ApiError | None = None
    retry_after: float = 0

    async def abort(self, context: Context) -> None:
        status = status_pb2.Status(code=getattr(code_pb2, self.code.name), message=self.message)
        if self.reason:
            status.details.append(_packed(error_details_pb2.ErrorInfo(reason=self.reason, domain="batchyard")))
        if self.api:
            status.details.append(_packed(self.api))
        if self.retry_after:
            delay = duration_pb2.Duration(seconds=int(self.retry_after), nanos=int(self.retry_after % 1 * 1e9))
            status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        trailer = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(self.code, self.message, trailer)


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


@dataclass
class FakeService(BatchServiceServicer):
    """Answers what a test scripts, and remembers what it was asked."""

    answer: Message | Refusal | None = None
    requests: list[Any] = field(default_factory=list)
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    uploaded: list[UploadFileRequest] = field(default_factory=list)
    refuse_upload: Refusal | None = None
    refuse_after: tuple[int, Refusal] | None = None
    messages: list[DownloadFileResponse | Refusal | asyncio.Event] = field(default_factory=list)
    watches: list[Iterable[WatchBatchResponse | Refusal | asyncio.Event]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    hold_upload: str = ""
    ranged: Refusal | None = None

    async def _unary(self, request: Any, context: Context) -> Any:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        if self.hold:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
        if isinstance(self.answer, Refusal):
            await self.answer.abort(context)
        return self.answer

    CreateBatch = GetBatch = ListBatches = CancelBatch = GetFile = ListFiles = DeleteFile = _unary

    async def UploadFile(  # noqa: N802
        self, request_iterator: AsyncIterator[UploadFileRequest], context: Context
    ) -> UploadFileResponse:
        self.metadata = dict(context.invocation_metadata())
        if self.refuse_upload:
            await self.refuse_upload.abort(context)
        await self._held("door")
        try:
            await context.send_initial_metadata((("batchyard-accepted", "1"),))  # callers go on before it returns
            await self._held("data")
            async for message in request_iterator:
                self.uploaded.append(message)
                if self.refuse_after and len(self.content) >= self.refuse_after[0]:
                    await self.refuse_after[1].abort(context)
        finally:
            self.ended.append("finished" if self.finished else "broken")
        await self._held("answer")
        return self.answer if isinstance(self.answer, UploadFileResponse) else UploadFileResponse()

    async def _held(self, where: str) -> None:
        """Waits for ever where `hold_upload` says so."""
        if self.hold_upload == where:
            await asyncio.Event().wait()

    async def WatchBatch(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: N802
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        async for message in self._told(self.watches.pop(0), context, "watch"):
            yield message

    async def DownloadFile(self, request: Any, context: Context) -> AsyncIterator[DownloadFileResponse]:  # noqa: N802
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        if self.ranged and request.read_offset:
            await self.ranged.abort(context)
        async for message in self._told(self.messages, context, "download"):
            yield message

    async def _told(self, script: Iterable[Any], context: Context, what: str) -> AsyncIterator[Any]:
        """What a stream sends; it fails where the script has a refusal, and waits where it has an event."""
        try:
            for message in script:
                if isinstance(message, Refusal):
                    await message.abort(context)
                elif isinstance(message, asyncio.Event):
                    await message.wait()
                else:
                    yield message
        finally:
            self.ended.append(what)

    @property
    def content(self) -> bytes:
        return b"".join(message.data for message in self.uploaded)

    @property
    def finished(self) -> bool:
        return bool(self.uploaded) and self.uploaded[-1].HasField("finish")

    @property
    def kinds(self) -> list[str | None]:
        """The kinds of message that came, runs of data as one."""
        kinds: list[str | None] = []
        for message in self.uploaded:
            kind = message.WhichOneof("payload")
            if kind != "data" or kinds[-1:] != ["data"]:
                kinds.append(kind)
        return kinds


@dataclass
class Shim:
    service: FakeService
    health: health.aio.HealthServicer
    client: httpx.AsyncClient
    app: Starlette
    port: int

    async def send_raw(self, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own, on which the pieces were written."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return reader, writer


@asynccontextmanager
async def running_service(service: FakeService) -> AsyncGenerator[tuple[str, health.aio.HealthServicer]]:
    server = grpc.aio.server()
    add_BatchServiceServicer_to_server(service, server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.stop(None)


class _Reading(grpc.aio.ServerInterceptor):
    """Serves calls as the service does: their messages are read by its handlers."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        return read_here(handler, lambda messages, context: perform(handler, messages, context), 10)


@asynccontextmanager
async def called_directly(service: FakeService) -> AsyncGenerator[tuple[DirectCaller, health.aio.HealthServicer]]:
    handlers, servicer = Handlers(), health.aio.HealthServicer()
    served: Any = handlers
    add_BatchServiceServicer_to_server(service, served)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, served)
    await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    caller = DirectCaller(handlers, [_Reading()], 1000, OFF, "")
    yield caller, servicer
    await caller.close()


@asynccontextmanager
async def called_over_a_channel(service: FakeService) -> AsyncGenerator[tuple[Caller, health.aio.HealthServicer]]:
    async with running_service(service) as (target, servicer), connect(target) as caller:
        yield caller, servicer


@asynccontextmanager
async def running_shim(max_requests: int = 100, **settings: Any) -> AsyncGenerator[Shim]:
    service = FakeService()
    called = called_over_a_channel if alone() else called_directly
    async with called(service) as (caller, servicer):
        app = create_app(caller, **settings)
        async with listening(app, "127.0.0.1", 0, max_requests=max_requests) as listener:
            base = f"http://127.0.0.1:{listener.port}"
            async with plain_client(base_url=base, timeout=30) as client:
                yield Shim(service, servicer, client, app, listener.port)


@pytest.fixture
async def shim() -> AsyncGenerator[Shim]:
    async with running_shim() as running:
        yield running


async def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return as soon as the condition holds; fail after the deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def form(*parts: tuple[str, str | bytes] | tuple[str, str | bytes, str], boundary: str = "b0undary") -> bytes:
    """A form's bytes; a part's third member is its filename."""
    out = []
    for name, value, *filename in parts:
        disposition = f'Content-Disposition: form-data; name="{name}"' + "".join(f'; filename="{f}"' for f in filename)
        head = f"--{boundary}\r\n{disposition}\r\n\r\n".encode()
        out.append(head + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(out) + f"--{boundary}--\r\n".encode()


FORM = {"content-type": "multipart/form-data; boundary=b0undary"}
