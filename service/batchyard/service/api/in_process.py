"""Calls from within the process: the service's own handlers behind its own interceptors, and no socket in between."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc import StatusCode, aio

from batchyard.common.calls import ACCEPTED, CallError, Metadata, path_of
from batchyard.common.tracing import Tracing
from batchyard.service.api.authentication import Handler, MaybeHandler

PEER = "in-process"

_STOPPED = "The service has stopped."
_CROWDED = "Too many calls run at once."

_log = logging.getLogger("batchyard.service")


class Handlers(dict[str, Handler]):
    """Handlers by their methods' paths. To the generated `add_..._to_server` functions it is a server."""

    def add_generic_rpc_handlers(self, _: object) -> None:
        """Takes nothing: the other function is given the same handlers by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        self.update({f"/{service}/{name}": handler for name, handler in handlers.items()})


class _Details(NamedTuple):
    """What interceptors are told of a call, like grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: Metadata


class _Pipe:
    """Messages one way; one waits in it at most, so that who sends keeps step with who receives."""

    def __init__(self, *messages: Message) -> None:
        """With `messages` it has ended."""
        self._messages = deque(messages)
        self._ended = bool(messages)
        self._change: asyncio.Future[None] | None = None  # only one side at a time has to wait

    async def put(self, message: Message) -> bool:
        """Whether the message was taken; not when the pipe has ended."""
        await self.empty()
        if not self._ended:
            self._messages.append(message)
            self._wake()
            return True
        return False

    async def empty(self) -> None:
        """Waits until nothing waits in it, or it has ended."""
        while self._messages and not self._ended:
            await self._changed()

    async def get(self) -> Any:
        """The next message, or EOF."""
        while not self._messages:
            if self._ended:
                return aio.EOF
            await self._changed()
        self._wake()
        return self._messages.popleft()

    def end(self) -> None:
        self._ended = True
        self._wake()

    async def _changed(self) -> None:
        self._change = asyncio.get_running_loop().create_future()
        await self._change

    def _wake(self) -> None:
        if self._change and not self._change.done():
            self._change.set_result(None)


class _InProcessCall:
    """A call: to its handler what it uses of grpc.aio.ServicerContext, and to its caller how it goes."""

    def __init__(self, requests: _Pipe) -> None:
        self.requests = requests
        self.metadata: Metadata = ()
        self.answers = _Pipe()
        self.opened = asyncio.Event()  # its initial metadata is there, or never will be
        self.accepted = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answer: Any = None
        self._code, self._message = StatusCode.OK, ""
        self._trailer: Metadata = ()

    async def read(self) -> Any:
        return await self.requests.get()

    async def write(self, message: Message) -> None:
        await self.answers.put(message)
        await self.answers.empty()  # what a slow reader has not taken is all that is held for it

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        self.accepted = ACCEPTED in dict(metadata)
        self.opened.set()

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailer = metadata

    async def abort(self, code: StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        self.fail(code, details)
        self._trailer = trailing_metadata
        raise aio.AbortError

    def code(self) -> StatusCode:
        return self._code

    def invocation_metadata(self) -> Metadata:
        return self.metadata

    def peer(self) -> str:
        return PEER

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return {}

    def fail(self, code: StatusCode, message: str) -> None:
        self._code, self._message = code, message

    def close(self) -> None:
        """Nothing more comes, either way."""
        self.requests.end()
        self.answers.end()
        self.opened.set()
        if not self.ended.done():
            self.ended.set_result(None)

    def check(self) -> None:
        """Raises CallError where the call has failed."""
        if self._code is not StatusCode.OK:
            raise CallError.told(self._code, self._message, self._trailer)


class _Upload:
    """A call that sends many messages and receives one."""

    def __init__(self, call: _InProcessCall) -> None:
        self._call = call

    async def accepted(self) -> None:
        await self._call.opened.wait()
        if not self._call.accepted:
            self._refuse()

    async def write(self, message: Message) -> None:
        if not await self._call.requests.put(message):
            self._refuse()

    async def result(self) -> Any:
        self._call.requests.end()
        await self._call.ended
        self._call.check()
        return self._call.answer

    def _refuse(self) -> None:
        self._call.check()
        raise CallError(StatusCode.INTERNAL, "the service answered before the stream had ended")


class DirectCaller:
    """A `Caller` of handlers in the same process. Messages are handed over as they are: nobody changes them later."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        interceptors: Sequence[aio.ServerInterceptor],
        most: int,
        tracing: Tracing,
        secret: str,
    ) -> None:
        """`most` calls run at once. `secret` shows that the caller is a shim of ours."""
        self._find: Callable[[Any], Any] = partial(_found, handlers)
        for interceptor in reversed(interceptors):
            self._find = partial(interceptor.intercept_service, self._find)
        self._most = most
        self._tracing = tracing
        self._shown = (("batchyard-shim", secret),) if secret else ()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def close(self) -> None:
        """Ends all calls, and takes no more."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def unary(self, method: MethodDescriptor, request: Message, *, metadata: Metadata, deadline: float) -> Any:
        call = _InProcessCall(_Pipe(request))
        task = self._begun(call, method, metadata)
        try:
            async with asyncio.timeout(deadline):
                await call.ended
        except TimeoutError:
            raise CallError(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        finally:
            task.cancel()
        call.check()
        return call.answer

    @asynccontextmanager
    async def upload(self, method: MethodDescriptor, *, metadata: Metadata) -> AsyncGenerator[_Upload]:
        call = _InProcessCall(_Pipe())
        task = self._begun(call, method, metadata)
        try:
            yield _Upload(call)
        finally:
            task.cancel()

    @asynccontextmanager
    async def download(
        self, method: MethodDescriptor, request: Message, *, metadata: Metadata
    ) -> AsyncGenerator[AsyncIterator[Any]]:
        call = _InProcessCall(_Pipe(request))
        task = self._begun(call, method, metadata)
        try:
            yield _answers(call)
        finally:
            task.cancel()

    def _begun(self, call: _InProcessCall, method: MethodDescriptor, metadata: Metadata) -> asyncio.Task[None]:
        if self._closed:
            raise CallError(StatusCode.UNAVAILABLE, _STOPPED)
        if len(self._tasks) >= self._most:
            raise CallError(StatusCode.RESOURCE_EXHAUSTED, _CROWDED)
        call.metadata = (*metadata, *self._shown, *self._tracing.carrier().items())
        task = asyncio.create_task(self._serve(call, _Details(path_of(method), call.metadata)))
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, call))
        return task

    async def _serve(self, call: Any, details: _Details) -> None:
        handler: MaybeHandler = await self._find(details)
        if handler is None:
            call.fail(StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        behaviour: Any = handler.stream_unary or handler.stream_stream
        with suppress(aio.AbortError):
            call.answer = await behaviour(None, call)

    def _done(self, call: _InProcessCall, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            call.fail(StatusCode.CANCELLED, _STOPPED)
        elif error := task.exception():
            _log.error("defect", exc_info=error)
            call.fail(StatusCode.UNKNOWN, "")
        call.close()


async def _found(handlers: Mapping[str, Handler], details: _Details) -> MaybeHandler:
    return handlers.get(details.method)


async def _answers(call: _InProcessCall) -> AsyncIterator[Any]:
    while (message := await call.answers.get()) is not aio.EOF:
        yield message
    call.check()
