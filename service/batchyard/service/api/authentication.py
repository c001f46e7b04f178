"""Who calls: a bearer key becomes a tenant before anything of the request's body is read."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import grpc
from grpc import aio

from batchyard.service.access.authenticator import Authenticator
from batchyard.service.access.caller import API_VERSION, KEY_SCHEME, current_caller, metadata_value
from batchyard.service.domain.keys import DEFAULT_TENANT, Caller
from batchyard.service.errors import BatchyardError

_ADMIN = "/batchyard.admin.v1."
_NAMES = ("x509_common_name", "x509_subject_alternative_name")  # of a verified certificate, as gRPC tells them
PUBLIC_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")


# grpc's classes take type parameters for the checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]]


class KeyInterceptor(aio.ServerInterceptor):
    """Sets `current_caller`, or raises why there is none, before anything of the request is read.

    Who shows no key but a certificate with one of `admin_names` may do in AdminService what the master key may.
    """

    def __init__(self, keys: Authenticator, admin_names: Iterable[str] = ()) -> None:
        self._keys = keys
        self._admins = frozenset(admin_names)

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> MaybeHandler:
        if details.method.startswith(PUBLIC_SERVICES):
            return await continuation(details)
        shown = metadata_value(details, "authorization")
        try:
            caller = await self._keys.caller(shown)
        except BatchyardError as error:
            if self._admins and shown is None and details.method.startswith(_ADMIN):
                return _for_admins(await continuation(details), self._admins, error)
            raise
        if metadata_value(details, API_VERSION) or metadata_value(details, KEY_SCHEME):
            caller = caller._replace(azure=True)
        current_caller.set(caller)
        return await continuation(details)


def _for_admins(handler: MaybeHandler, admins: frozenset[str], refusal: BatchyardError) -> MaybeHandler:
    """A call of one message that those alone may make whose certificate has a name of `admins`."""
    if handler is None:
        return None
    answer: Any = handler.unary_unary

    async def checked(request: Any, context: Any) -> Any:
        shown = context.auth_context()
        names = admins.intersection(name.decode(errors="replace") for kind in _NAMES for name in shown.get(kind, ()))
        if not names:
            raise refusal
        current_caller.set(Caller(DEFAULT_TENANT, master=True, who=f"certificate {min(names)}"))
        return await answer(request, context)

    return grpc.unary_unary_rpc_method_handler(checked, handler.request_deserializer, handler.response_serializer)
