"""The shim's calls, spoken over a gRPC channel. Nothing outside this module touches a channel or a call object."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from operator import methodcaller
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from batchyard.common import channels
from batchyard.common.calls import ACCEPTED, CallError, Metadata, path_of
from batchyard.common.pem import CertificateFiles
from batchyard.common.tracing import OFF, Tracing

_MAX_MESSAGE = 4 * 1024 * 1024
_OPTIONS = (
    *channels.OPTIONS,
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
)


class ChannelCaller:
    """A `Caller` over a channel."""

    def __init__(self, channel: channels.Channel, tracing: Tracing, secret: str) -> None:
        self._channel = channel
        self._tracing = tracing
        self._shown = [("batchyard-shim", secret)] if secret else []

    async def unary(self, method: MethodDescriptor, request: Message, *, metadata: Metadata, deadline: float) -> Any:
        call = self._channel.latest.unary_unary(*_spoken(method))
        with _translated():
            return await call(request, timeout=deadline, metadata=self._traced(metadata))

    @asynccontextmanager
    async def upload(self, method: MethodDescriptor, *, metadata: Metadata) -> AsyncGenerator["_Upload"]:
        call = self._channel.latest.stream_unary(*_spoken(method))(metadata=self._traced(metadata))
        try:
            yield _Upload(call)
        finally:
            call.cancel()

    @asynccontextmanager
    async def download(
        self, method: MethodDescriptor, request: Message, *, metadata: Metadata
    ) -> AsyncGenerator[AsyncIterator[Any]]:
        call = self._channel.latest.unary_stream(*_spoken(method))(request, metadata=self._traced(metadata))
        try:
            yield _messages(call)
        finally:
            call.cancel()

    def _traced(self, metadata: Metadata) -> tuple[tuple[str, str], ...]:
        return (*metadata, *self._shown, *self._tracing.carrier().items())


class _Upload:
    """A call that sends many messages and receives one."""

    def __init__(self, call: grpc.aio.StreamUnaryCall[Message, Any]) -> None:
        self._call = call
        self._first: CallError | None = None
        call.add_done_callback(self._note)

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
        with suppress(grpc.aio.InternalError):  # it has been answered already
            await self._call.done_writing()
        return await self._answer()

    async def _refusal(self) -> None:
        await self._answer()
        raise CallError(grpc.StatusCode.INTERNAL, "the service answered before the stream had ended")

    async def _answer(self) -> Any:
        try:
            with _translated():
                return await self._call
        except CallError as error:
            raise error if error.details or not self._first else self._first from error

    def _note(self, call: Any) -> None:
        # A message that is still being sent when the service ends the call makes grpc.aio forget how it ended.
        self._first = CallError.told(*(immediate(ask()) for ask in (call.code, call.details, call.trailing_metadata)))


@asynccontextmanager
async def connect(
    target: str, tracing: Tracing = OFF, files: CertificateFiles | None = None, every: float = 5, secret: str = ""
) -> AsyncGenerator[ChannelCaller]:
    """A caller over a channel of its own to `target`, as `channels.opened` has it, closed on the way out.

    Doesn't wait for the service: while it can't be reached, calls fail with UNAVAILABLE. `secret` shows that it's us.
    Raises CertificateError.
    """
    async with channels.opened(target, _OPTIONS, files, every) as channel:
        yield ChannelCaller(channel, tracing, secret)


def _spoken(method: MethodDescriptor) -> tuple[str, Callable[[Any], bytes], Callable[[bytes], Any]]:
    """A method as a channel opens it: its path, what writes its requests, what reads its answers."""
    return path_of(method), methodcaller("SerializeToString"), GetMessageClass(method.output_type).FromString


async def _messages(call: grpc.aio.UnaryStreamCall[Message, Any]) -> AsyncIterator[Any]:
    with _translated():
        async for message in call:
            yield message


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise CallError.told(error.code(), error.details(), error.trailing_metadata()) from error


def immediate(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise RuntimeError("it waits")
