"""Who calls: a bearer key becomes a tenant before anything of the request's body is read."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from hashlib import sha256
from hmac import compare_digest
from typing import Any, TypeAlias

import grpc
from grpc import aio

from batchyard.service.errors import Unauthenticated

DEFAULT_TENANT = "default"
PUBLIC_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")

current_tenant: ContextVar[str] = ContextVar("current_tenant")

# grpc's classes take type parameters for the checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]]


class Keys:
    """The keys of this service. Without a master key every caller is the tenant `default`."""

    def __init__(self, master_key: str | None) -> None:
        self._master = sha256(master_key.encode()).digest() if master_key else None

    def tenant(self, authorization: str | None) -> str:
        """The tenant of an authorization header, in constant time. Raises Unauthenticated."""
        if self._master is None:
            return DEFAULT_TENANT
        if not authorization:
            raise Unauthenticated(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
        scheme, _, key = authorization.partition(" ")
        digest = sha256(key.strip().encode(errors="replace")).digest()
        if not compare_digest(digest, self._master) or scheme.lower() != "bearer":
            raise Unauthenticated("Incorrect API key provided.", code="invalid_api_key")
        return DEFAULT_TENANT


class KeyInterceptor(aio.ServerInterceptor):
    """Sets `current_tenant`, or answers UNAUTHENTICATED with a handler that never reads the request."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> MaybeHandler:
        if not details.method.startswith(PUBLIC_SERVICES):
            try:
                current_tenant.set(self._keys.tenant(metadata_value(details, "authorization")))
            except Unauthenticated as error:
                return _refusing(error)
        return await continuation(details)


def metadata_value(details: grpc.HandlerCallDetails, key: str) -> str | None:
    """The last value of a metadata key, or None."""
    found = None
    for name, value in details.invocation_metadata or ():
        if name == key and isinstance(value, str):
            found = value
    return found


def _refusing(error: Unauthenticated) -> Handler:
    async def refuse(_: object, __: object) -> Any:
        raise error
        yield  # type: ignore[unreachable]  # a handler of streams is a generator; it doesn't wait for a message

    return grpc.stream_stream_rpc_method_handler(refuse)
