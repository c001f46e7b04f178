"""What a running server answers is what /openapi.json says, to the member."""

from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from tests.harness import chat_lines, jsonl

from .conftest import Door, batch_request


@pytest.fixture
async def described(door: Door) -> dict[str, Any]:
    """The server's description, strict: no schema of an answer has room for what it doesn't name."""
    document = dict((await door.rest.get("/openapi.json")).json())
    for schema in document["components"]["schemas"].values():
        schema.setdefault("additionalProperties", False)
    return document


def check(described: dict[str, Any], answer: httpx.Response, verb: str, path: str) -> None:
    """The answer's status, type and body are among those of the operation."""
    response = described["paths"][path][verb]["responses"][str(answer.status_code)]
    if "$ref" in response:
        response = described["components"]["responses"][response["$ref"].rpartition("/")[2]]
    kind = answer.headers["content-type"]
    schema = response["content"][kind]["schema"]
    Draft202012Validator({**schema, "components": described["components"]}).validate(answer.json())


async def test_answers_about_files_are_as_described(door: Door, described: dict[str, Any]) -> None:
    form = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    made = await door.rest.post("/v1/files", data=form, files={"file": ("a.jsonl", jsonl(chat_lines(1)))})
    check(described, made, "post", "/v1/files")
    one = f"/v1/files/{made.json()['id']}"
    check(described, await door.rest.get(one), "get", "/v1/files/{file_id}")
    check(described, await door.rest.get("/local/files"), "get", "/{provider}/files")
    check(described, await door.rest.delete(one), "delete", "/v1/files/{file_id}")
    gone = await door.rest.get(one)
    assert gone.status_code == 404
    check(described, gone, "get", "/v1/files/{file_id}")


@pytest.mark.parametrize(
    ("lines", "status"),
    [(chat_lines(2), "completed"), ([{"custom_id": 5}], "failed")],
)
async def test_answers_about_batches_are_as_described(
    door: Door, described: dict[str, Any], lines: list[dict[str, Any]], status: str
) -> None:
    file = await door.upload(jsonl(lines))
    body = batch_request(file["id"], metadata={"team": "a"}, output_expires_after=None)
    made = await door.rest.post("/v1/batches", json=body)
    check(described, made, "post", "/v1/batches")
    ended = await door.ended(made.json()["id"])
    check(described, await door.rest.get("/batches"), "get", "/batches")
    check(described, await door.rest.get(f"/batches/{ended['id']}"), "get", "/batches/{batch_id}")
    late = await door.rest.post(f"/v1/batches/{ended['id']}/cancel")
    assert (late.status_code, ended["status"]) == (409, status)
    check(described, late, "post", "/v1/batches/{batch_id}/cancel")


async def test_refusals_and_probes_are_as_described(door: Door, described: dict[str, Any]) -> None:
    refused = await door.rest.post("/v1/batches", json=batch_request("file-1", completion_window="1h"))
    assert refused.status_code == 400
    check(described, refused, "post", "/v1/batches")
    keyless = await door.rest.get("/v1/files", headers={"authorization": ""})
    assert keyless.status_code == 401
    check(described, keyless, "get", "/v1/files")
    for name in ("liveliness", "liveness", "readiness"):
        check(described, await door.rest.get(f"/health/{name}"), "get", f"/health/{name}")
    check(described, await door.rest.get("/openapi.json"), "get", "/openapi.json")


async def test_content_is_described_by_type_and_status(door: Door, described: dict[str, Any]) -> None:
    file = await door.upload(jsonl(chat_lines(1)))
    responses = described["paths"]["/v1/files/{file_id}/content"]["get"]["responses"]
    for given, status in (({}, 200), ({"range": "bytes=0-4"}, 206)):
        answer = await door.rest.get(f"/v1/files/{file['id']}/content", headers=given)
        assert answer.status_code == status
        assert list(responses[str(status)]["content"]) == [answer.headers["content-type"]]
        assert all(name in answer.headers for name in responses[str(status)]["headers"])
    outside = await door.rest.get(f"/v1/files/{file['id']}/content", headers={"range": "bytes=99999-"})
    assert outside.status_code == 416
    check(described, outside, "get", "/v1/files/{file_id}/content")
