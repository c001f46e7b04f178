"""Who calls: a bearer key becomes a tenant before anything of the request's body is read."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from hashlib import sha256
from hmac import compare_digest
from inspect import isasyncgen
from typing import Any, NamedTuple, TypeAlias

import grpc
from grpc import aio

from batchyard.service.errors import BatchyardError, Unauthenticated
from batchyard.service.keys.records import KeyRecord

DEFAULT_TENANT = "default"
_MOST_PUBLIC_STREAMS = 64
PUBLIC_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")

API_VERSION, KEY_SCHEME = "batchyard-api-version", "batchyard-key-scheme"
"""Metadata by which a shim says how a REST client spoke: its api-version, and that its key was in `api-key`."""


class Caller(NamedTuple):
    """Who calls: the tenant, whether its key is the master's, and whether its client speaks as Azure's own do.

    `key` is the one that it has, none for the master's and where none is needed.
    """

    tenant: str
    master: bool
    azure: bool = False
    key: KeyRecord | None = None


current_caller: ContextVar[Caller] = ContextVar("current_caller")

# grpc's classes take type parameters for the checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]]


class Keys:
    """The keys of this service. Without a master key every caller is the tenant `default`."""

    def __init__(self, master_key: str | None) -> None:
        self._master = sha256(master_key.encode()).digest() if master_key else None

    def caller(self, authorization: str | None) -> Caller:
        """Who an authorization header stands for, in constant time. Raises Unauthenticated."""
        if self._master is None:
            return Caller(DEFAULT_TENANT, master=True)
        if not authorization:
            raise Unauthenticated(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
        scheme, _, key = authorization.partition(" ")
        digest = sha256(key.strip().encode(errors="replace")).digest()
        if not compare_digest(digest, self._master) or scheme.lower() != "bearer":
            raise Unauthenticated("Incorrect API key provided.", code="invalid_api_key")
        return Caller(DEFAULT_TENANT, master=True)


class KeyInterceptor(aio.ServerInterceptor):
    """Sets `current_caller`, or answers UNAUTHENTICATED with a handler that never reads the request."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._public = asyncio.Semaphore(_MOST_PUBLIC_STREAMS)

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> MaybeHandler:
        if not details.method.startswith(PUBLIC_SERVICES):
            try:
                caller = self._keys.caller(metadata_value(details, "authorization"))
                azure = any(metadata_value(details, name) for name in (API_VERSION, KEY_SCHEME))
                current_caller.set(caller._replace(azure=azure))
            except Unauthenticated as error:
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
