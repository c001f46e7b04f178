"""What callers send. It comes here as bytes, so that what is no message is refused like anything else that is wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from inspect import isasyncgen
from math import inf
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from batchyard.service.api.authentication import Handler, MaybeHandler
from batchyard.service.errors import BatchyardError, Busy, InvalidArgument, Late, TooLarge

MESSAGE_SECONDS = 10.0
MOST_MESSAGE = 2 << 20
"""Bytes of a message that is a call's only one: what a REST request's JSON can become, twice over."""
MOST_PUBLIC = 64

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Behaviour = Callable[[Any, Context], Awaitable[Any]]


class Messages:
    """The messages of a call, as they come. Raises InvalidArgument at one that can't be parsed."""

    def __init__(self, context: Context, parse: Callable[[bytes], Any] | None, seconds: float) -> None:
        """`seconds` bounds the wait for a message that is the only one."""
        self._context = context
        self._parse = parse
        self._seconds = seconds

    def __aiter__(self) -> "Messages":
        return self

    async def __anext__(self) -> Any:
        return await self._next()

    async def _next(self, most: float = inf) -> Any:
        raw = await self._context.read()
        if raw is aio.EOF:
            raise StopAsyncIteration
        if isinstance(raw, Message):  # from within the process
            return raw
        if len(raw) > most:  # a map of a million entries takes its time before anything of it can be checked
            raise TooLarge(f"The request has {len(raw)} bytes, more than the maximum of {most}.")
        try:
            return self._parse(raw) if self._parse else raw
        except DecodeError:
            raise InvalidArgument("The request is not a message of the type that this method takes.") from None

    async def only(self) -> Any:
        """The message of a call that takes one. Raises Late where it doesn't come, InvalidArgument where there is none.

        A call whose head alone comes has a place among all calls, and nothing else would ever end it.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._next(MOST_MESSAGE)
        except TimeoutError:
            raise Late(f"No message came in {self._seconds:g} seconds.") from None
        except StopAsyncIteration:
            raise InvalidArgument("The call has no message.") from None


def streams(handler: Handler) -> bool:
    """Whether its calls may last."""
    return bool(handler.request_streaming or handler.response_streaming)


def read_here(handler: Handler, run: Behaviour, message_seconds: float) -> Handler:
    """A handler for gRPC like `handler`, which parses nothing: `run` is given the call's messages and its context.

    To gRPC each call is a stream of requests: for what it takes for a single one it would wait without end.
    """

    async def serve(_: object, context: Context) -> Any:
        return await run(Messages(context, handler.request_deserializer, message_seconds), context)

    kind = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    return kind(serve, response_serializer=handler.response_serializer)


async def perform(
    handler: Handler, messages: Messages, context: Context, saw: Callable[[object], None] = lambda _: None
) -> Any:
    """What `handler` answers, or None when it has sent a stream. `saw` is told a single request."""
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    request: Any = messages
    if not handler.request_streaming:
        request = await messages.only()
        saw(request)
    answer = behaviour(request, context)
    if not isasyncgen(answer):
        return await answer
    async with aclosing(answer):
        async for message in answer:
            await context.write(message)
    return None


class PublicCalls:
    """Bounds how many calls there are at once that need no key, streams and others: they can't crowd callers out."""

    def __init__(self, most_calls: int, message_seconds: float) -> None:
        """`most_calls` is how many of any kind the service takes."""
        self._message_seconds = message_seconds
        self._most = max(1, min(MOST_PUBLIC, most_calls // 8))
        self._streams, self._others = asyncio.Semaphore(self._most), asyncio.Semaphore(self._most)

    def bounded(self, handler: MaybeHandler) -> MaybeHandler:
        if handler is None:
            return None
        places = self._streams if streams(handler) else self._others

        async def run(messages: Messages, context: Context) -> Any:
            try:
                if places.locked():
                    raise Busy(f"More than {self._most} such calls of health and reflection are open.")
                async with places:
                    return await perform(handler, messages, context)
            except BatchyardError as error:
                await context.abort(error.status, error.message)

        return read_here(handler, run, self._message_seconds)
