"""The shim's seam to the service: the calls it makes, and how they are spoken over a gRPC channel.

Nothing outside this module touches a channel or a call object, so that the service can also be called in-process.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

Metadata = Sequence[tuple[str, str]]

ACCEPTED = "batchyard-accepted"

_MAX_MESSAGE = 4 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # A server closes connections that are pinged more than once in five minutes without data.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class CallError(Exception):
    """A call failed: its status code, its message and, where the service sent them, its details."""

    def __init__(self, code: grpc.StatusCode, message: str, details: status_pb2.Status | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True)
class Method:
    """One RPC: its path, and the type of its answers."""

    path: str
    response: type[Message]


class Upload(Protocol):
    """A call that sends many messages and receives one."""

    async def accepted(self) -> None:
        """Wait until the service has let the call in (it sends `ACCEPTED` as initial metadata)."""

    async def write(self, message: Message) -> None:
        """Send a message; waits while the service is behind."""

    async def result(self) -> Any:
        """End the stream and wait for the answer."""


class Caller(Protocol):
    """How the shim reaches the service; a call that fails raises `CallError`.

    A task that is cancelled cancels its call, and a stream that hasn't ended is cancelled where its context ends.
    """

    async def unary(self, method: Method, request: Message, *, metadata: Metadata, deadline: float) -> Any:
        """Call, and wait at most `deadline` seconds."""

    def upload(self, method: Method, *, metadata: Metadata) -> AbstractAsyncContextManager[Upload]:
        """Open a stream of requests."""

    def download(
        self, method: Method, request: Message, *, metadata: Metadata
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Open a stream of answers."""


@asynccontextmanager
async def connect(target: str) -> AsyncGenerator[Caller]:
    """A caller over a channel of its own to `target` (host:port), closed on the way out.

    Doesn't wait for the service: while it can't be reached, calls fail with UNAVAILABLE.
    """
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        yield GrpcCaller(channel)


class GrpcCaller:
    """`Caller` over a gRPC channel, which its opener closes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def unary(self, method: Method, request: Message, *, metadata: Metadata, deadline: float) -> Any:
        call = self._channel.unary_unary(method.path, _serialize, method.response.FromString)
        with _translated():
            return await call(request, timeout=deadline, metadata=tuple(metadata))

    @asynccontextmanager
    async def upload(self, method: Method, *, metadata: Metadata) -> AsyncGenerator[Upload]:
        stream = self._channel.stream_unary(method.path, _serialize, method.response.FromString)
        call = stream(metadata=tuple(metadata))
        try:
            yield _GrpcUpload(call)
        finally:
            call.cancel()

    @asynccontextmanager
    async def download(
        self, method: Method, request: Message, *, metadata: Metadata
    ) -> AsyncGenerator[AsyncIterator[Any]]:
        stream = self._channel.unary_stream(method.path, _serialize, method.response.FromString)
        call = stream(request, metadata=tuple(metadata))
        try:
            yield _messages(call)
        finally:
            call.cancel()


class _GrpcUpload:
    def __init__(self, call: grpc.aio.StreamUnaryCall[Message, Any]) -> None:
        self._call = call

    async def accepted(self) -> None:
        # A refusal shows as initial metadata without the key, and raises only where the answer is awaited.
        if ACCEPTED not in dict(await self._call.initial_metadata()):
            await self._refusal()

    async def write(self, message: Message) -> None:
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._refusal()

    async def result(self) -> Any:
        with _translated():
            await self._call.done_writing()
            return await self._call

    async def _refusal(self) -> None:
        with _translated():
            await self._call
        raise CallError(grpc.StatusCode.INTERNAL, "the service answered before the stream had ended")


async def _messages(call: grpc.aio.UnaryStreamCall[Message, Any]) -> AsyncIterator[Any]:
    with _translated():
        async for message in call:
            yield message


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise CallError(error.code(), error.details() or "", _details(error)) from error


def _details(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    packed = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    try:
        return status_pb2.Status.FromString(packed) if packed else None
    except DecodeError:
        return None


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
