"""How the matrix' requests go over gRPC, and over REST where the contract has a route for them."""

import json
from typing import Any, NamedTuple

import grpc
import httpx
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from tests.harness import until, upload_messages
from tests.rest.conftest import ENDED_WORDS
from tests.statuses import told

from batchyard.admin.v1 import admin_service_pb2
from batchyard.v1 import batch_service_pb2

from .matrix import Ask
from .scene import Scene

METHODS: dict[str, MethodDescriptor] = {
    method.full_name: method
    for service in (
        batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"],
        admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
    )
    for method in service.methods
}
# What is no google.api.http can describe.
BYTES = {
    "UploadFile": ("POST", "/v1/files"),
    "DownloadFile": ("GET", "/v1/files/{file_id}/content"),
    "WatchBatch": ("GET", "/v1/batches/{batch_id}/events"),
}
CODES = {
    200: StatusCode.OK,
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
}


class Came(NamedTuple):
    """What an answer says; `errors` are those that a batch which it created ended with."""

    code: StatusCode
    message: str = ""
    param: str | None = None
    errors: str = ""
    text: str = ""

    def without(self, name: str) -> "Came":
        """The same whatever was asked for."""
        message, errors = (text.replace(name, "$id") if name else text for text in (self.message, self.errors))
        return self._replace(message=message, errors=errors, text="")


def routed(name: str) -> bool:
    """Whether REST has a route for an RPC."""
    return name.rpartition(".")[2] in BYTES or bool(_rule(name)[0])


async def over_grpc(scene: Scene, name: str, ask: Ask) -> Came:
    client = scene.client(ask.secret)
    method, short = METHODS[name], name.rpartition(".")[2]
    stub: Any = client.stub if "BatchService" in name else scene.admin
    request: Any = upload_messages(b"content", ask.request) if method.client_streaming else ask.request  # type: ignore[arg-type]
    call = getattr(stub, short)(request, metadata=client.metadata)
    try:
        answers = [one async for one in call] if method.server_streaming else [await call]
    except grpc.aio.AioRpcError as error:
        found = told(error)
        return Came(error.code(), found.message, found.param)
    errors = str((await client.ended(answers[0].batch.id)).errors) if short == "CreateBatch" else ""
    return Came(StatusCode.OK, errors=errors, text=str(answers))


async def over_rest(scene: Scene, name: str, ask: Ask) -> Came:
    short = name.rpartition(".")[2]
    fields: dict[str, Any] = MessageToDict(ask.request, preserving_proto_field_name=True)
    verb, path = BYTES.get(short) or _rule(name)
    path = path.format(**{key: fields.pop(key) for key in list(fields) if f"{{{key}}}" in path})
    async with scene.rest(ask.secret) as client:
        if short == "UploadFile":
            filename = fields.pop("filename")
            answer = await client.post(path, data=fields, files={"file": (filename, b"content")})
        elif short == "CreateBatch":
            answer = await client.post(path, json=fields)
        else:
            answer = await client.request(verb, path, params=fields)
        if answer.status_code != 200:
            error = answer.json()["error"]
            return Came(CODES[answer.status_code], error["message"], error["param"])
        errors = await _errors(client, answer.json()["id"]) if short == "CreateBatch" else ""
        return Came(StatusCode.OK, errors=errors, text=answer.text)


async def _errors(client: httpx.AsyncClient, batch_id: str) -> str:
    async def look() -> dict[str, Any]:
        return dict((await client.get(f"/v1/batches/{batch_id}")).json())

    return json.dumps((await until(look, lambda seen: seen["status"] in ENDED_WORDS))["errors"])


def _rule(name: str) -> tuple[str, str]:
    """The verb and the path that the contract gives an RPC first; empty where it gives none."""
    rule = METHODS[name].GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return (verb.upper(), str(getattr(rule, verb))) if verb else ("", "")
