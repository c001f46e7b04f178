import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2

from batchyard.shim.app import create_app
from batchyard.shim.caller import connect
from batchyard.v1 import CreateBatchResponse, DeleteFileResponse, File, GetFileResponse

from .conftest import SERVICE, Refusal, Shim, eventually, running_shim


@pytest.mark.parametrize(
    ("verb", "path"),
    [("GET", "/"), ("GET", "/v1/foo"), ("GET", "/v1/files/"), ("GET", "/v1/v1/files"), ("GET", "/batches/v1/files"),
     ("POST", "/health/files"), ("GET", "/a/b/c/d/e")],
)  # fmt: skip
async def test_an_unknown_route_is_404_in_the_envelope(shim: Shim, verb: str, path: str) -> None:
    answer = await shim.client.request(verb, path)
    assert answer.status_code == 404
    expected = {"message": f"Invalid URL ({verb} {path})", "type": "invalid_request_error", "param": None, "code": None}
    assert answer.json() == {"error": expected}
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("verb", "path", "allow"),
    [
        ("DELETE", "/v1/batches", "GET, POST"),
        ("PUT", "/v1/files/file-1", "DELETE, GET"),
        ("POST", "/east/v1/files/file-1/content", "GET"),
        ("GET", "/v1/batches/batch_1/cancel", "POST"),
    ],
)
async def test_a_wrong_method_is_405_with_what_is_allowed(shim: Shim, verb: str, path: str, allow: str) -> None:
    answer = await shim.client.request(verb, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/files/file-1%2Fcontent", "/v1%2Ffiles", "/v1/files/a%2fb", "/a%2Fb/files"])
async def test_an_encoded_slash_is_404(shim: Shim, path: str) -> None:
    shim.service.answer = GetFileResponse()
    answer = await shim.client.get(path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")
    assert shim.service.requests == []


async def test_head_on_a_probe_is_get_without_a_body(shim: Shim) -> None:
    for path in ("liveliness", "liveness", "readiness"):
        answer = await shim.client.head(f"/health/{path}")
        assert (answer.status_code, answer.content) == (200, b"")
    await shim.health.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    assert (await shim.client.head("/health/readiness")).status_code == 503


async def test_bodies_that_trickle_are_408_and_keep_nobody_out_for_long() -> None:
    async with running_shim(max_requests=2, deadline=1) as shim, asyncio.TaskGroup() as group:
        head = b"POST /v1/batches HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{"
        opened = [await shim.send_raw(head) for _ in range(2)]
        answers = [group.create_task(_answer(reader)) for reader, _ in opened]
        trickles = [group.create_task(_trickle(writer)) for _, writer in opened]
        await _full(shim)
        assert (await shim.client.get("/health/liveliness")).status_code == 200
        for reading in answers:
            answer = await asyncio.wait_for(reading, 10)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"\r\nconnection: close\r\n" in answer
            assert b'"invalid_request_error"' in answer
        for trickle, (_, writer) in zip(trickles, opened, strict=True):
            trickle.cancel()
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """All that comes, to the end or to the reset that bytes sent after it provoke."""
    answer = bytearray()
    with suppress(ConnectionError):
        while piece := await reader.read(1 << 16):
            answer += piece
    return bytes(answer)


async def _full(shim: Shim) -> None:
    """Returns when there is no room for another request."""
    async with asyncio.timeout(10):
        while (await shim.client.get("/v1/foo")).status_code != 503:
            pass


async def _trickle(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)


async def test_head_is_not_supported(shim: Shim) -> None:
    assert (await shim.client.head("/v1/files/file-1/content")).status_code == 405


@pytest.mark.parametrize("path", ["/health/liveliness", "/health/liveness"])
async def test_liveliness_does_not_need_the_service(path: str) -> None:
    async with connect("127.0.0.1:1") as caller:
        transport = httpx.ASGITransport(create_app(caller))
        async with httpx.AsyncClient(transport=transport, base_url="http://shim") as client:
            assert (await client.get(path)).json() == {"status": "alive"}


async def test_readiness_asks_the_service(shim: Shim) -> None:
    assert (await shim.client.get("/health/readiness")).status_code == 200
    await shim.health.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    answer = await shim.client.get("/health/readiness")
    assert (answer.status_code, answer.json()) == (503, {"status": "not_serving"})


async def test_without_a_service_readiness_and_calls_are_503() -> None:
    async with connect("127.0.0.1:1") as caller:
        transport = httpx.ASGITransport(create_app(caller))
        async with httpx.AsyncClient(transport=transport, base_url="http://shim") as client:
            assert (await client.get("/health/readiness")).status_code == 503
            answer = await client.get("/v1/batches/batch_1")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "The service is not reachable right now."


async def test_the_callers_request_id_travels_and_comes_back(shim: Shim) -> None:
    shim.service.answer = GetFileResponse(file=File(id="file-1"))
    answer = await shim.client.get("/v1/files/file-1", headers={"x-request-id": "my.id-1", "authorization": "Bearer k"})
    assert answer.headers["x-request-id"] == shim.service.metadata["x-request-id"] == "my.id-1"
    assert shim.service.metadata["authorization"] == "Bearer k"


@pytest.mark.parametrize("given", [None, "has space", "x" * 129, ""])
async def test_a_request_without_a_good_id_gets_one(shim: Shim, given: str | None) -> None:
    headers = {} if given is None else {"x-request-id": given}
    answer = await shim.client.get("/v1/foo", headers=headers)
    assert re.fullmatch("req_[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.parametrize("key", ["Bearer k\u00e9".encode("latin-1"), b"Bearer a\tb", b"x" * 5000])
@pytest.mark.parametrize("path", ["/v1/files/file-1", "/v1/files/file-1/content"])
async def test_a_key_that_cannot_be_metadata_is_refused(shim: Shim, key: bytes, path: str) -> None:
    answer = await shim.client.get(path, headers={b"authorization": key})
    assert answer.status_code == 400
    assert "authorization" in answer.json()["error"]["message"]
    assert shim.service.requests == []


@pytest.mark.parametrize("name", ["authorization", "api-key", "idempotency-key"])
async def test_a_header_that_comes_twice_with_two_values_is_refused_by_name(shim: Shim, name: str) -> None:
    shim.service.answer = CreateBatchResponse()
    path, body = "/v1/batches", {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    answer = await shim.client.post(path, json=body, headers=[(name, "Bearer a"), (name, "Bearer b")])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name
    assert "twice" in answer.json()["error"]["message"]
    assert shim.service.requests == []
    assert (await shim.client.post(path, json=body, headers=[(name, "a"), (name, "a")])).status_code == 200


async def test_a_client_that_leaves_cancels_its_call(shim: Shim) -> None:
    shim.service.hold = asyncio.Event()
    _, writer = await shim.send_raw(b"GET /v1/files/file-1 HTTP/1.1\r\nhost: x\r\n\r\n")
    await eventually(lambda: bool(shim.service.requests))
    writer.close()
    await eventually(lambda: shim.service.ended == ["cancelled"])


async def test_a_call_beyond_its_deadline_is_504() -> None:
    async with running_shim(deadline=0.2) as shim:
        shim.service.hold = asyncio.Event()
        answer = await shim.client.get("/v1/files/file-1")
    assert answer.status_code == 504
    assert answer.json()["error"]["message"] == "The service did not answer in time."


class BrokenCaller:
    """A caller with a defect."""

    async def unary(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("a secret")

    upload: Any = unary
    download: Any = unary


@pytest.fixture
async def broken() -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(BrokenCaller()))
    async with httpx.AsyncClient(transport=transport, base_url="http://shim") as client:
        yield client


async def test_a_defect_is_500_in_the_envelope_and_logged(
    broken: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await broken.get("/v1/files/file-1")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"]
    assert any(record.exc_info for record in caplog.records if record.name == "batchyard.shim")


async def test_each_request_is_one_log_line_without_ids_or_keys(shim: Shim, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "batchyard.shim")
    shim.service.answer = DeleteFileResponse(id="file-secret", deleted=True)
    await shim.client.delete("/v1/files/file-secret", headers={"authorization": "Bearer secret"})
    shim.service.answer = Refusal(StatusCode.INTERNAL, "bad", "INTERNAL")
    await shim.client.get("/east/v1/files/file-secret")
    await eventually(lambda: len(caplog.records) == 2)
    good, bad = (vars(record) for record in caplog.records)
    assert (good["method"], good["route"], good["status"]) == ("DELETE", "/v1/files/{file_id}", 200)
    assert (good["levelname"], bad["levelname"], bad["status"]) == ("INFO", "ERROR", 500)
    assert good["bytes"] > 0
    assert good["duration_ms"] >= 0
    assert "secret" not in json.dumps([good, bad], default=str)


async def test_no_error_is_in_the_frameworks_own_form(shim: Shim) -> None:
    shim.service.answer = CreateBatchResponse()
    for verb, path in [("GET", "/nope"), ("PATCH", "/v1/files"), ("POST", "/v1/batches"), ("POST", "/v1/files")]:
        answer = await shim.client.request(verb, path)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
