"""Who calls: a bearer key becomes a tenant before anything of the request's body is read."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from inspect import isasyncgen
from typing import Any, TypeAlias

import grpc
from grpc import aio

from batchyard.service.errors import BatchyardError
from batchyard.service.keys.ring import Caller, Keys

_MOST_PUBLIC_STREAMS = 64
PUBLIC_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")

API_VERSION, KEY_SCHEME = "batchyard-api-version", "batchyard-key-scheme"
"""Metadata by which a shim says how a REST client spoke: its api-version, and that its key was in `api-key`."""


current_caller: ContextVar[Caller] = ContextVar("current_caller")

# grpc's classes take type parameters for the checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]]


class KeyInterceptor(aio.ServerInterceptor):
    """Sets `current_caller`, or answers why there is none with a handler that never reads the request."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._public = asyncio.Semaphore(_MOST_PUBLIC_STREAMS)

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> MaybeHandler:
        if not details.method.startswith(PUBLIC_SERVICES):
            try:
                caller = await self._keys.caller(metadata_value(details, "authorization"))
                azure = any(metadata_value(details, name) for name in (API_VERSION, KEY_SCHEME))
                current_caller.set(caller._replace(azure=azure))
            except BatchyardError as error:
                return refusing(error)
            return await continuation(details)
        handler = await continuation(details)
        if handler is None or not handler.response_streaming:
            return handler
        return _bounded(handler, self._public)


def metadata_value(details: grpc.HandlerCallDetails, key: str) -> str | None:
    """The last value of a metadata key, or None."""
    found = None
    for name, value in details.invocation_metadata or ():
        if name == key and isinstance(value, str):
            found = value
    return found


def _bounded(handler: Handler, places: asyncio.Semaphore) -> Handler:
    """A stream that needs no key, with a bound on how many there are at once: they can't crowd callers out."""
    streaming: Any = handler.stream_stream or handler.unary_stream

    async def stream(request: Any, context: Any) -> None:
        if places.locked():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many health or reflection streams at once.")
        async with places:
            sent = streaming(request, context)
            if isasyncgen(sent):
                async for message in sent:
                    await context.write(message)
            else:
                await sent

    coders = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    kind = grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
    return kind(stream, **coders)


def refusing(error: BatchyardError) -> Handler:
    """A handler for any kind of call that raises `error`, and never reads the request."""

    async def refuse(_: object, __: object) -> Any:
        raise error
        yield  # type: ignore[unreachable]  # a handler of streams is a generator; it doesn't wait for a message

    return grpc.stream_stream_rpc_method_handler(refuse)
