"""What the suites share: settings for a throw-away service, a client that speaks the contract, and patience."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any, TypeVar

import grpc
import httpx
import pytest

from batchyard.admin.v1 import AdminServiceStub, CreateKeyRequest
from batchyard.common.metrics import Metrics
from batchyard.service.access.authenticator import Authenticator
from batchyard.service.config.settings import Key, LocalSettings, Settings
from batchyard.service.datadir.disk import Disk
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.objects.base import OpenStore
from batchyard.service.server import Server, serving
from batchyard.shim.caller import immediate
from batchyard.v1 import (
    Batch,
    BatchServiceStub,
    BatchStatus,
    CreateBatchRequest,
    DownloadFileRequest,
    File,
    GetBatchRequest,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
    UploadFileResponse,
)

KEY = "sk-test-master"
PATIENCE = 60.0  # seconds until something that should happen has not
PIECE = 256 << 10
ENDED = {
    BatchStatus.BATCH_STATUS_COMPLETED,
    BatchStatus.BATCH_STATUS_FAILED,
    BatchStatus.BATCH_STATUS_EXPIRED,
    BatchStatus.BATCH_STATUS_CANCELLED,
}

T = TypeVar("T")


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Settings of a service with its data in `folder`; `local` may be given as LocalSettings."""
    base = Settings(
        grpc_port=0,
        port=0,
        data_dir=folder / "data",
        master_key=KEY,
        default_provider="local",
        local=LocalSettings(echo=True),
    )
    return replace(base, **changes)


class _NoKeys:
    """A registry without keys."""

    async def find(self, _: str) -> None:
        return None


def keys_of(master_key: str | None, *configured: Key) -> Authenticator:
    """The keys of a service that has made none."""
    registry: Any = _NoKeys()
    return Authenticator(master_key, configured, registry)


def figures() -> ServiceMetrics:
    """The figures of a part of a service, on a registry of their own."""
    return ServiceMetrics(Metrics())


def plain_client(base_url: str = "", **more: Any) -> httpx.AsyncClient:
    """A client of plain HTTP: to load certificates takes longer than many a test."""
    none = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(base_url=base_url, trust_env=False, verify=none, **more)


class Client:
    """The generated stubs with a key, and the few calls that tests make all the time."""

    def __init__(self, channel: grpc.aio.Channel, key: str = KEY) -> None:
        self.channel = channel
        self.stub = BatchServiceStub(channel)
        self.admin: Any = AdminServiceStub(channel)
        opened: Any = self.stub.UploadFile
        self.stub.UploadFile = lambda *given, **more: _Upload(opened(*given, **more))  # type: ignore[assignment]
        self.metadata = (("authorization", f"Bearer {key}"),)

    def having(self, key: str) -> "Client":
        """The same with another key."""
        return Client(self.channel, key)

    async def upload(self, data: bytes, *, purpose: str = "batch", filename: str = "input.jsonl") -> File:
        metadata = UploadFileMetadata(purpose=purpose, filename=filename)
        response = await self.stub.UploadFile(upload_messages(data, metadata), metadata=self.metadata)
        return response.file

    async def create(self, file_id: str, endpoint: str = "/v1/chat/completions", **more: Any) -> Batch:
        request = CreateBatchRequest(input_file_id=file_id, endpoint=endpoint, completion_window="24h", **more)
        return (await self.stub.CreateBatch(request, metadata=self.metadata)).batch

    async def get(self, batch_id: str) -> Batch:
        return (await self.stub.GetBatch(GetBatchRequest(batch_id=batch_id), metadata=self.metadata)).batch

    async def ended(self, batch_id: str) -> Batch:
        """The batch, when it has ended."""
        return await until(lambda: self.get(batch_id), lambda batch: batch.status in ENDED)

    async def run(self, lines: Iterable[dict[str, Any]], endpoint: str = "/v1/chat/completions") -> Batch:
        """Uploads lines, runs them as a batch and returns it when it has ended."""
        file = await self.upload(jsonl(lines))
        return await self.ended((await self.create(file.id, endpoint)).id)

    async def read(self, file_id: str, offset: int = 0, limit: int = 0) -> bytes:
        request = DownloadFileRequest(file_id=file_id, read_offset=offset, read_limit=limit)
        return b"".join([message.data async for message in self.stub.DownloadFile(request, metadata=self.metadata)])

    async def new_key(self, tenant: str, **more: Any) -> tuple[str, str]:
        """The id of a new key of a tenant, and its secret."""
        request = CreateKeyRequest(tenant=tenant, name="robot", **more)
        made = await self.admin.CreateKey(request, metadata=self.metadata)
        return made.key.id, made.secret

    async def results(self, file_id: str) -> list[dict[str, Any]]:
        """The lines of an output or error file; none for no file."""
        return [json.loads(line) for line in (await self.read(file_id)).splitlines()] if file_id else []


class _Upload:
    """An upload's call that knows how it ended: grpc.aio's own forgets it where a message was still being sent then."""

    def __init__(self, call: grpc.aio.StreamUnaryCall[UploadFileRequest, UploadFileResponse]) -> None:
        self._call = call
        self._ends: list[tuple[Any, ...]] = []
        call.add_done_callback(self._note)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, UploadFileResponse]:
        return self._answer().__await__()

    async def code(self) -> grpc.StatusCode:
        code = await self._call.code()
        return next((said for said, *_ in self._ends if said is not grpc.StatusCode.INTERNAL), code)

    async def _answer(self) -> UploadFileResponse:
        try:
            return await self._call
        except grpc.aio.AioRpcError as error:
            ends = (end for end in self._ends if end[0] is not grpc.StatusCode.INTERNAL)
            code, details, trailer = next(ends, (error.code(), error.details(), error.trailing_metadata()))
            raise grpc.aio.AioRpcError(code, error.initial_metadata(), trailer, details) from error

    def _note(self, _: Any) -> None:
        ask = (self._call.code, self._call.details, self._call.trailing_metadata)
        self._ends.append(tuple(immediate(one()) for one in ask))


@asynccontextmanager
async def service(
    settings: Settings,
    metrics: Metrics | None = None,
    *,
    disk: Disk | None = None,
    clock: Callable[[], float] = time,
    steady: Callable[[], float] | None = None,
    open_store: OpenStore | None = None,
) -> AsyncIterator[tuple[Server, Client]]:
    """A running service on a free port, and a client of it."""
    async with (
        serving(settings, metrics, disk=disk, clock=clock, steady=steady, open_store=open_store) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        yield server, Client(channel)


def upload_messages(data: bytes, metadata: UploadFileMetadata) -> Iterator[UploadFileRequest]:
    """A whole, well-formed upload."""
    yield UploadFileRequest(metadata=metadata)
    for start in range(0, len(data), PIECE):
        yield UploadFileRequest(data=data[start : start + PIECE])
    yield UploadFileRequest(finish=UploadFileFinish(size=len(data)))


def chat_line(custom_id: str, content: str = "hello", **body: Any) -> dict[str, Any]:
    """A request as a batch input has it."""
    messages = [{"role": "user", "content": content}]
    whole = {"model": "test-model", "messages": messages, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": whole}


def chat_lines(count: int) -> list[dict[str, Any]]:
    return [chat_line(f"request-{number}", f"question {number}") for number in range(count)]


def jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def until(
    look: Callable[[], Awaitable[T]], good: Callable[[T], bool], patience: float = PATIENCE, every: float = 0.02
) -> T:
    """What `look` returns as soon as it is good; fails with the last look after `patience` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not good(seen := await look()):
        if loop.time() > end:
            raise AssertionError(f"not in {patience} seconds; last seen: {seen}")
        await asyncio.sleep(every)
    return seen


@asynccontextmanager
async def refused(code: grpc.StatusCode) -> AsyncIterator[list[grpc.aio.AioRpcError]]:
    """The call inside must fail with `code`; the error is in the list afterwards."""
    errors: list[grpc.aio.AioRpcError] = []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield errors
    assert raised.value.code() is code, raised.value
    errors.append(raised.value)
