"""The unary RPCs as HTTP routes, derived from the google.api.http annotations in BatchService's descriptor."""

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from batchyard.common.jsonmap import header_fields, json_type, merger, readable_names, writer
from batchyard.shim.caller import Caller
from batchyard.shim.errors import RequestError
from batchyard.shim.inbound import Body, Bounds, metadata_of, provider_of, while_connected
from batchyard.v1 import batch_service_pb2

MAX_BODY = 1024 * 1024

Handler = Callable[[Request], Awaitable[ASGIApp]]

SERVICE = batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"]


@dataclass(frozen=True)
class Binding:
    """One verb at one path (with {variables}), the RPC behind it, and what answers it."""

    verb: str
    path: str
    rpc: str
    handle: Handler


class Transcoder:
    """Turns HTTP requests into unary calls of at most `bounds.deadline` seconds, and their answers into JSON."""

    def __init__(self, caller: Caller, bounds: Bounds) -> None:
        self._caller = caller
        self._bounds = bounds

    def bindings(self) -> Iterator[Binding]:
        """Every annotated verb and path."""
        for rpc in SERVICE.methods:
            http = rpc.GetOptions().Extensions[annotations_pb2.http]
            for rule in (http, *http.additional_bindings):
                if verb := rule.WhichOneof("pattern"):
                    yield Binding(verb.upper(), getattr(rule, verb), rpc.name, self._handler(rpc, rule))

    def _handler(self, rpc: MethodDescriptor, rule: Any) -> Handler:
        kind, member = GetMessageClass(rpc.input_type), rule.response_body
        merge, write = merger(kind), writer(GetMessageClass(rpc.output_type))
        headers = header_fields(kind)
        names = {alias: field for alias, (name, field) in readable_names(kind).items() if name != "provider"}

        async def handle(request: Request) -> Response:
            metadata = metadata_of(request)
            body = await self._body(request) if rule.body else _from_query(request, names)
            message: Any = kind()
            merge(message, body, "")
            provider = provider_of(request, body=message.provider)
            merge(message, {**request.path_params, "provider": provider}, "")
            for header in headers.keys() & request.headers.keys():
                setattr(message, headers[header], request.headers[header])
            call = self._caller.unary(rpc, message, metadata=metadata, deadline=self._bounds.deadline)
            answer = write(await while_connected(request.receive, call))
            return JSONResponse(answer[member] if member else answer)

        return handle

    async def _body(self, request: Request) -> Any:
        raw = await Body(request, self._bounds).read_all(MAX_BODY)
        try:
            return json.loads(raw.decode(), parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            where = f"{error.msg} (line {error.lineno}, column {error.colno})"
        except (ValueError, RecursionError):
            where = "It holds something that no JSON value can be, or is nested too deeply"
        raise RequestError(400, f"We could not parse the JSON body of your request. {where}.")


def _refuse_constant(word: str) -> None:
    raise ValueError(word)


def _from_query(request: Request, names: Mapping[str, FieldDescriptor]) -> dict[str, Any]:
    query = request.query_params
    return {name: _from_text(field, query[name]) for name, field in names.items() if name in query}


def _from_text(field: FieldDescriptor, text: str) -> Any:
    """A query value as the JSON value it stands for; text that stands for none is left, to be refused as such."""
    kind = str if field.enum_type is not None else json_type(field)
    if kind is int and re.fullmatch("-?[0-9]{1,40}", text):
        return int(text)
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    return text
