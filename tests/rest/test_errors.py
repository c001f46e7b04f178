"""Every refusal is OpenAI's envelope with a request id, whoever refuses: the server, the shim or the service."""

from typing import Any

import httpx
import pytest
from tests.harness import chat_line, chat_lines, jsonl

from batchyard.service.settings import LocalSettings

from .conftest import FORM, Door, batch_request, form, opened, refusal

FILE = ("file", jsonl(chat_lines(1)), "mydata.jsonl")
MISSING_FILE, MISSING_BATCH = "file-missing", "batch_missing"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/"), ("GET", "/v1"), ("GET", "/v1/foo"), ("GET", "/v1/files/a/b/c"), ("GET", "/v1/batches/"),
        ("POST", "/v1/chat/completions"), ("GET", "/health"), ("GET", "/files/v1/files"), ("GET", "/v1/v1/files"),
        ("GET", "/local/v2/files"), ("GET", "/docs"), ("GET", "/openapi.json"),
    ],
)  # fmt: skip
async def test_an_unknown_route_is_404(door: Door, verb: str, path: str) -> None:
    error = refusal(await door.rest.request(verb, path), 404)
    assert error == {
        "message": f"Invalid URL ({verb} {path})", "type": "invalid_request_error", "param": None, "code": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("DELETE", "/v1/files", "GET, POST"), ("PUT", "/v1/batches", "GET, POST"),
        ("PATCH", "/local/v1/batches/b", "GET"), ("OPTIONS", "/v1/files", "GET, POST"),
        ("GET", "/v1/batches/b/cancel", "POST"), ("POST", "/v1/files/f/content", "GET"),
        ("POST", "/health/readiness", "GET, HEAD"), ("POST", "/v1/files/f", "DELETE, GET"),
    ],
)  # fmt: skip
async def test_a_wrong_method_is_405(door: Door, verb: str, path: str, allowed: str) -> None:
    answer = await door.rest.request(verb, path)
    assert refusal(answer, 405)["type"] == "invalid_request_error"
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'a': 1}", b'{"model: "x"}', b"\xff\xfe", b"NaN", b"[" * 100_000, b"{}x"]
)
async def test_a_body_that_is_not_json_is_400(door: Door, body: bytes) -> None:
    error = refusal(await door.rest.post("/v1/batches", content=body, headers=JSON), 400)
    assert error["message"].startswith("We could not parse the JSON body of your request.")
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)


async def test_bad_json_is_told_where(door: Door) -> None:
    body = b'{\n"endpoint": "/v1/chat/completions",\n"model: "batch"\n}'
    assert "line 3, column " in refusal(await door.rest.post("/v1/batches", content=body), 400)["message"]


@pytest.mark.parametrize("body", ["[]", "null", "1", '"text"', "true"])
async def test_a_body_that_is_no_object_is_400(door: Door, body: str) -> None:
    error = refusal(await door.rest.post("/v1/batches", content=body, headers=JSON), 400)
    assert (error["code"], error["param"]) == ("invalid_type", None)


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"input_file_id": 1}, "input_file_id", "invalid_type"),
        ({"input_file_id": None}, "input_file_id", "missing_required_parameter"),
        ({"endpoint": ["/v1/chat/completions"]}, "endpoint", "invalid_type"),
        ({"endpoint": "/v1/x"}, "endpoint", "invalid_value"),
        ({"completion_window": "48h"}, "completion_window", "invalid_value"),
        ({"metadata": []}, "metadata", "invalid_type"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags", "invalid_type"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
        ({"metadata": {f"k{n}": "" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds",
         "integer_below_min_value"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": "3600"}}, "output_expires_after.seconds",
         "invalid_type"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor", "invalid_value"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
    ],
)  # fmt: skip
async def test_a_member_that_is_wrong_is_named(door: Door, members: dict[str, Any], param: str, code: str) -> None:
    error = refusal(await door.rest.post("/v1/batches", json=batch_request("file-1", **members)), 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert param in error["message"] or members.get(param) in {"/v1/x", "48h", None}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/batches?limit=0", "integer_below_min_value"), ("/v1/batches?limit=101", "integer_above_max_value"),
        ("/v1/batches?limit=x", "invalid_type"), ("/v1/batches?limit=1.5", "invalid_type"),
        ("/v1/batches?limit=99999999999999999999", "invalid_value"),
        ("/v1/files?limit=10001", "integer_above_max_value"), ("/v1/files?limit=-1", "integer_below_min_value"),
    ],
)  # fmt: skip
async def test_a_limit_that_is_wrong_is_400(door: Door, path: str, code: str) -> None:
    error = refusal(await door.rest.get(path), 400)
    assert (error["param"], error["code"]) == ("limit", code)


async def test_an_order_that_is_neither_is_400(door: Door) -> None:
    error = refusal(await door.rest.get("/v1/files?order=sideways"), 400)
    assert (error["param"], error["code"]) == ("order", "invalid_value")
    assert "'asc', 'desc'" in error["message"]


@pytest.mark.parametrize(
    ("parts", "param"),
    [([("purpose", "batch")], "file"), ([FILE], "purpose"), ([], "file")],
)
async def test_a_form_without_a_part_that_is_needed_is_400(door: Door, parts: list[Any], param: str) -> None:
    error = refusal(await door.rest.post("/v1/files", content=form(*parts), headers=FORM), 400)
    assert (error["message"], error["param"]) == (f"'{param}' is a required property", param)
    assert door.kept() == []


async def test_an_upload_that_is_no_form_is_400(door: Door) -> None:
    for headers, body in (
        (JSON, b"{}"),
        ({}, b""),
        (FORM, b"not a form"),
        ({"content-type": "multipart/form-data"}, b""),
    ):
        assert refusal(await door.rest.post("/v1/files", content=body, headers=headers), 400)["message"]


async def test_an_upload_of_an_unknown_purpose_is_400(door: Door) -> None:
    error = refusal(await door.rest.post("/v1/files", content=form(("purpose", "fun"), FILE), headers=FORM), 400)
    expected = "'fun' is not one of ['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals'] - 'purpose'"
    assert (error["message"], error["param"]) == (expected, "purpose")


async def test_a_batch_input_of_another_format_is_400(door: Door) -> None:
    parts = form(("purpose", "batch"), ("file", b"{}", "mydata.csv"))
    error = refusal(await door.rest.post("/v1/files", content=parts, headers=FORM), 400)
    assert error["message"] == "Invalid file format for Batch API. Must be .jsonl"


@pytest.mark.parametrize(
    ("verb", "path"),
    [("GET", "/v1/files"), ("GET", "/v1/batches/b"), ("POST", "/v1/files"), ("GET", "/v1/files/f/content"),
     ("DELETE", "/local/v1/files/f"), ("POST", "/v1/batches"), ("POST", "/batches/b/cancel")],
)  # fmt: skip
async def test_without_the_right_key_nothing_is_served(door: Door, verb: str, path: str) -> None:
    content, headers = (form(("purpose", "batch"), FILE), FORM) if path == "/v1/files" else (b"{}", {})
    async with httpx.AsyncClient(base_url=door.rest.base_url, trust_env=False) as stranger:
        error = refusal(await stranger.request(verb, path, content=content, headers=headers), 401)
        assert error["message"].startswith("You didn't provide an API key.")
        assert (error["type"], error["code"]) == ("invalid_request_error", None)
        wrong = headers | {"authorization": "Bearer sk-wrong"}
        error = refusal(await stranger.request(verb, path, content=content, headers=wrong), 401)
        assert error["code"] == "invalid_api_key"
        assert "sk-wrong" not in error["message"]
    assert door.kept() == []


@pytest.mark.parametrize(("verb", "path"), [("GET", ""), ("DELETE", ""), ("GET", "/content")])
async def test_a_file_that_is_missing_is_404(door: Door, verb: str, path: str) -> None:
    error = refusal(await door.rest.request(verb, f"/v1/files/{MISSING_FILE}{path}"), 404)
    assert error == {
        "message": f"No such File object: {MISSING_FILE}", "type": "invalid_request_error", "param": "id", "code": None,
    }  # fmt: skip


@pytest.mark.parametrize(("verb", "path"), [("GET", ""), ("POST", "/cancel")])
async def test_a_batch_that_is_missing_is_404(door: Door, verb: str, path: str) -> None:
    error = refusal(await door.rest.request(verb, f"/v1/batches/{MISSING_BATCH}{path}"), 404)
    assert error == {
        "message": f"No batch found with id '{MISSING_BATCH}'.", "type": "invalid_request_error", "param": None,
        "code": None,
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/moon/v1/files", "/moon/v1/batches", "/moon/files/file-1", "/moon/v1/batches/b"])
async def test_an_unknown_provider_is_refused(door: Door, path: str) -> None:
    error = refusal(await door.rest.get(path), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", "provider")
    assert "moon" in error["message"]


async def test_nothing_is_uploaded_or_created_at_an_unknown_provider(door: Door) -> None:
    content = form(("purpose", "batch"), FILE)
    upload = await door.rest.post("/moon/v1/files", content=content, headers=FORM)
    create = await door.rest.post("/moon/v1/batches", json=batch_request("file-1"))
    named = await door.rest.post("/v1/batches", json=batch_request("file-1", custom_llm_provider="moon"))
    assert {refusal(answer, 400)["param"] for answer in (upload, create, named)} == {"provider"}
    assert door.kept() == []


async def test_two_providers_are_one_too_many(door: Door) -> None:
    error = refusal(await door.rest.get("/local/v1/files", headers={"custom-llm-provider": "moon"}), 400)
    assert (error["param"], error["code"]) == ("provider", "invalid_value")


async def test_a_batch_that_has_ended_is_not_cancelled(door: Door) -> None:
    batch = await door.run(chat_lines(2))
    answer = await door.rest.post(f"/v1/batches/{batch['id']}/cancel")
    assert refusal(answer, 409) == {
        "message": "Cannot cancel a batch with status 'completed'.", "type": "invalid_request_error", "param": None,
        "code": None,
    }  # fmt: skip
    assert answer.headers["x-should-retry"] == "false"


async def test_a_file_that_a_batch_reads_is_not_deleted(tmp_path: Any) -> None:
    async with opened(tmp_path, local=LocalSettings(echo=True, echo_delay_ms=60_000)) as door:
        file = await door.upload(jsonl([chat_line("a")]))
        await door.create(file["id"])
        answer = await door.rest.delete(f"/v1/files/{file['id']}")
        assert refusal(answer, 409)["type"] == "invalid_request_error"
        assert answer.headers["x-should-retry"] == "false"
        assert (await door.rest.get(f"/v1/files/{file['id']}")).status_code == 200


async def test_a_missing_input_file_fails_the_batch_and_not_its_creation(door: Door) -> None:
    batch = await door.ended((await door.create(MISSING_FILE))["id"])
    (error,) = batch["errors"]["data"]
    assert (batch["status"], error["code"], error["param"], error["line"]) == (
        "failed", "invalid_request", "file_id", None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("head", "status"),
    [(b"NONSENSE\r\n\r\n", 400), (b"GET /v1/files HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
     (b"GET /v1/files HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400)],
)  # fmt: skip
async def test_what_the_server_itself_refuses_is_in_the_envelope(door: Door, head: bytes, status: int) -> None:
    reader, writer = await door.send_raw(head)
    line, _, rest = (await reader.read()).partition(b"\r\n")
    writer.close()
    headers, _, body = rest.partition(b"\r\n\r\n")
    assert line.startswith(f"HTTP/1.1 {status} ".encode())
    named = dict(one.split(": ", 1) for one in headers.decode().splitlines())
    refusal(httpx.Response(status, headers=named, content=body), status)


async def test_the_callers_request_id_comes_back_with_an_error_and_with_an_answer(door: Door) -> None:
    for path in ("/v1/files", "/v1/files/file-missing", "/v1/foo", "/v1/files/file-missing/content"):
        answer = await door.rest.get(path, headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        assert (await door.rest.get(path)).headers["x-request-id"].startswith("req_")
