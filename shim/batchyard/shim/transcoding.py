"""The RPCs as HTTP routes, derived from the google.api.http annotations in the services' descriptors."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import msgspec
from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Scope, Send

from batchyard.admin.v1 import admin_service_pb2
from batchyard.common.calls import Caller, CallError
from batchyard.common.http import sse
from batchyard.common.jsonmap import (
    JsonError,
    from_text,
    header_reader,
    header_writer,
    merger,
    parsed,
    readable_names,
    writer,
)
from batchyard.shim.errors import from_call
from batchyard.shim.inbound import (
    Body,
    Bounds,
    check_coding,
    metadata_of,
    models_of,
    provider_of,
    while_connected,
    within,
)
from batchyard.v1 import batch_service_pb2

MAX_BODY = 1024 * 1024
ENDED = "end"
TARGETS = "target_model_names"

Handler = Callable[[Request], Awaitable[ASGIApp]]
Render = Callable[[Any], Response]
Opened = AbstractAsyncContextManager[AsyncIterator[Any]]

SERVICE = batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"]
ADMIN = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]


@dataclass(frozen=True)
class Binding:
    """One verb at one path (with {variables}), the RPC behind it, and what answers it."""

    verb: str
    path: str
    rpc: str
    handle: Handler


def rules(rpc: MethodDescriptor) -> Iterator[tuple[str, str, Any]]:
    """Every verb and path of an RPC, with the rule that says so.

    A segment that may be anything is the {deployment} that some clients append, which no call needs.
    """
    http = rpc.GetOptions().Extensions[annotations_pb2.http]
    for rule in (http, *http.additional_bindings):
        if verb := rule.WhichOneof("pattern"):
            yield verb.upper(), getattr(rule, verb).replace("/*/", "/{deployment}/"), rule


class Transcoder:
    """Turns HTTP requests into calls: an answer becomes JSON, a stream of them server-sent events."""

    def __init__(self, caller: Caller, bounds: Bounds) -> None:
        self._caller = caller
        self._bounds = bounds

    def bindings(self) -> Iterator[Binding]:
        """Every annotated verb and path."""
        for rpc in (*SERVICE.methods, *ADMIN.methods):
            for verb, path, rule in rules(rpc):
                yield Binding(verb, path, rpc.name, self._handler(rpc, rule))

    def _handler(self, rpc: MethodDescriptor, rule: Any) -> Handler:
        kind, answered, member = GetMessageClass(rpc.input_type), GetMessageClass(rpc.output_type), rule.response_body
        merge, write = merger(kind), writer(answered)
        read_headers, headers_of = header_reader(kind), header_writer(answered, member)
        placed = "models" in rpc.input_type.fields_by_name
        names = {alias: field for alias, (name, field) in readable_names(kind).items() if name != "provider"}

        def render(answer: Any) -> Response:
            written = write(answer)
            data = msgspec.json.encode(written[member] if member else written)
            return Response(data, headers=headers_of(answer), media_type="application/json")

        async def handle(request: Request) -> ASGIApp:
            metadata = metadata_of(request)
            body = await self._parsed_body(request) if rule.body else _asked(request, names)
            message: Any = kind()
            targets = _targets(body) if placed else []
            merge(message, body, "")
            if placed:
                _place(message, request, targets)
            provider = provider_of(request, body=message.provider)
            found = {name: value for name, value in request.path_params.items() if name in names}
            merge(message, {**found, "provider": provider}, "")
            read_headers(message, request.headers.items())
            if rpc.server_streaming:
                opened = self._caller.download(rpc, message, metadata=metadata)
                return self._events(request, opened, member, render)
            call = self._caller.unary(rpc, message, metadata=metadata, deadline=self._bounds.deadline)
            return render(await while_connected(request.receive, call))

        return handle

    async def _parsed_body(self, request: Request) -> Any:
        check_coding(request)
        return parsed(await Body(request, self._bounds).read_all(MAX_BODY))

    def _events(self, request: Request, opened: Opened, name: str, render: Render) -> ASGIApp:
        """The answers of a stream as events of that name; an error before the first is an error of the request."""
        if request.headers.get("last-event-id") == ENDED:
            return Response(status_code=204)  # by which a browser learns not to connect again

        async def respond(scope: Scope, send: Send) -> None:
            async with opened as messages:
                first = await within(self._bounds.deadline, anext(messages, None))
                events = _told(first, messages, name, render)
                await sse.respond(scope, send, events, quiet=self._bounds.quiet, idle=self._bounds.idle)

        return lambda scope, receive, send: while_connected(receive, respond(scope, send))


async def _told(first: Any, messages: AsyncIterator[Any], name: str, render: Render) -> AsyncGenerator[bytes]:
    message = first
    try:
        while message is not None:
            data = bytes(render(message).body)
            yield sse.event(name, data, mark=sse.mark_of(data))
            message = await anext(messages, None)
        yield sse.event("end", b"{}", mark=ENDED)
    except CallError as error:
        yield sse.failure(bytes(from_call(error).response().body))


def _place(message: Any, request: Request, targets: list[str]) -> None:
    """Notes the models that say where a request goes; one alone is also the one that a new batch's lines must name.

    What a body alone calls its model may be any that the lines name.
    """
    models = models_of(request, targets=targets)
    message.models.extend(models)
    if models and hasattr(message, "model"):
        models_of(request, message.model, targets)
        message.model = message.model or (models[0] if len(models) == 1 else "")


def _targets(body: Any) -> list[str]:
    """Takes target_model_names, a text or some, out of a body. Raises JsonError."""
    found = body.pop(TARGETS, None) if isinstance(body, dict) else None
    texts = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(text, str) for text in texts):
        raise JsonError(f"Invalid type for '{TARGETS}': expected a string.", param=TARGETS, code="invalid_type")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise JsonError(f"Invalid '{TARGETS}': not valid Unicode.", param=TARGETS, code="invalid_value") from None
    return texts


def _asked(request: Request, names: Mapping[str, FieldDescriptor]) -> dict[str, Any]:
    query = request.query_params
    return {name: from_text(field, query[name]) for name, field in names.items() if name in query}
