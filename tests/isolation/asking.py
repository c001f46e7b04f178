"""How the matrix' requests go over gRPC, and over REST where the contract has a route for them."""

import json
from typing import Any, NamedTuple

import grpc
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from tests.harness import until, upload_messages
from tests.rest.conftest import ENDED_WORDS
from tests.statuses import told

from batchyard.admin.v1 import admin_service_pb2
from batchyard.v1 import UploadFileMetadata, batch_service_pb2

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
    409: StatusCode.FAILED_PRECONDITION,
}


class Came(NamedTuple):
    """What an answer says; `errors` are those that a batch which it created ended with.

    `listed` has ids and names of a list's items, `made` the id of what was created, `text` all of the answer.
    """

    code: StatusCode
    message: str = ""
    param: str | None = None
    errors: str = ""
    listed: tuple[tuple[str, str], ...] = ()
    made: str = ""
    text: str = ""

    def without(self, name: str) -> "Came":
        """The same whatever was asked for."""
        message, errors = (text.replace(name, "$id") if name else text for text in (self.message, self.errors))
        return self._replace(message=message, errors=errors, made="", text="")


def routed(name: str) -> bool:
    """Whether REST has a route for an RPC."""
    return name.rpartition(".")[2] in BYTES or bool(_rule(name)[0])


async def over_grpc(scene: Scene, name: str, ask: Ask, *, wait: bool = True) -> Came:
    """`wait`: for the end of a batch that is created."""
    client = scene.door.grpc.having(ask.secret)
    method, short = METHODS[name], name.rpartition(".")[2]
    stub: Any = client.stub if "BatchService" in name else client.admin
    request: Any = ask.request
    if isinstance(request, UploadFileMetadata):
        request = upload_messages(ask.content, request)
    call = getattr(stub, short)(request, metadata=client.metadata)
    try:
        answers = [one async for one in call] if method.server_streaming else [await call]
    except grpc.aio.AioRpcError as error:
        found = told(error)
        return Came(error.code(), found.message, found.param)
    came = Came(StatusCode.OK, text=str(answers))
    if short.startswith("List") and hasattr(answers[0], "data"):
        return came._replace(listed=tuple((one.id, getattr(one, "filename", "")) for one in answers[0].data))
    if short == "UploadFile":
        return came._replace(made=answers[0].file.id)
    if short == "CreateBatch":
        batch = answers[0].batch
        return came._replace(made=batch.id, errors=str((await client.ended(batch.id)).errors) if wait else "")
    return came


async def over_rest(scene: Scene, name: str, ask: Ask, *, wait: bool = True) -> Came:
    """`wait`: for the end of a batch that is created."""
    short, rest = name.rpartition(".")[2], scene.door.rest
    fields: dict[str, Any] = MessageToDict(ask.request, preserving_proto_field_name=True)
    verb, path = BYTES.get(short) or _rule(name)
    path = path.format(**{key: fields.pop(key) for key in list(fields) if f"{{{key}}}" in path})
    headers = {"authorization": f"Bearer {ask.secret}"}
    if short == "UploadFile":
        files = {"file": (fields.pop("filename"), ask.content)}
        answer = await rest.post(path, data=fields, files=files, headers=headers)
    elif short == "CreateBatch":
        headers |= {"idempotency-key": key} if (key := fields.pop("idempotency_key", "")) else {}
        answer = await rest.post(path, json=fields, headers=headers)
    else:
        answer = await rest.request(verb, path, params=fields, headers=headers)
    if answer.status_code != 200:
        error = answer.json()["error"]
        return Came(CODES[answer.status_code], error["message"], error["param"])
    came = Came(StatusCode.OK, text=answer.text)
    if short.startswith("List"):
        return came._replace(listed=tuple((one["id"], one.get("filename", "")) for one in answer.json()["data"]))
    if short in ("UploadFile", "CreateBatch"):
        came = came._replace(made=answer.json()["id"])
    return came._replace(errors=await _errors(scene, came.made, headers)) if short == "CreateBatch" and wait else came


async def _errors(scene: Scene, batch_id: str, headers: dict[str, str]) -> str:
    async def look() -> dict[str, Any]:
        return dict((await scene.door.rest.get(f"/v1/batches/{batch_id}", headers=headers)).json())

    return json.dumps((await until(look, lambda seen: seen["status"] in ENDED_WORDS))["errors"])


def _rule(name: str) -> tuple[str, str]:
    """The verb and the path that the contract gives an RPC first; empty where it gives none."""
    rule = METHODS[name].GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return (verb.upper(), str(getattr(rule, verb))) if verb else ("", "")
