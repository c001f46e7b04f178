from itertools import combinations
from pathlib import Path

import pytest
from grpc import StatusCode

from batchyard.shim.app import Resource, create_app
from batchyard.shim.caller import connect
from batchyard.v1 import (
    Batch,
    CancelBatchResponse,
    CreateBatchResponse,
    DeleteFileResponse,
    GetBatchResponse,
    GetFileResponse,
    ListBatchesResponse,
    ListFilesResponse,
    SortOrder,
)

from .conftest import Refusal, Shim, running_shim

BATCH = {"input_file_id": "file-1", "endpoint": "/v1/responses", "completion_window": "24h"}


async def test_the_route_table_is_as_stored() -> None:
    async with connect("127.0.0.1:1") as caller:
        resources = [(route.path, route.app) for route in create_app(caller).routes]  # type: ignore[attr-defined]
    lines = [
        f"{verb:6} {path:69} {resource.bindings[verb].rpc}"
        for path, resource in resources
        if isinstance(resource, Resource)
        for verb in sorted(resource.bindings)
    ]
    assert lines == (Path(__file__).parent / "routes.txt").read_text().splitlines()


def test_no_path_has_two_routes() -> None:
    """But for those whose first segment is a word that no provider may have for a name."""
    routes = (Path(__file__).parent / "routes.txt").read_text().splitlines()
    paths = sorted({route.split()[1] for route in routes})
    for path, other in combinations(paths, 2):
        first, *segments = zip(path.split("/")[1:], other.split("/")[1:], strict=False)
        alike = path.count("/") == other.count("/") and all(a == b or "{" in a + b for a, b in segments)
        assert not alike or first[0] != first[1], (path, other)


async def test_a_batch_is_created_from_json(shim: Shim) -> None:
    shim.service.answer = CreateBatchResponse(batch=Batch(id="batch_1", created_at=2**40))
    answer = await shim.client.post("/east/v1/batches", json={**BATCH, "metadata": {"a": "b"}})
    assert answer.status_code == 200
    assert (answer.json()["object"], answer.json()["created_at"], answer.json()["errors"]) == ("batch", 2**40, None)
    (request,) = shim.service.requests
    assert (request.provider, request.input_file_id, request.metadata) == ("east", "file-1", {"a": "b"})


async def test_lists_read_their_query_by_type_and_ignore_what_they_do_not_know(shim: Shim) -> None:
    shim.service.answer = ListFilesResponse(has_more=True)
    query = "limit=7&order=asc&after=file-3&purpose=batch&api-version=2024-10-21"
    answer = await shim.client.get(f"/v1/files?{query}")
    assert answer.json() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": True}
    (request,) = shim.service.requests
    assert (request.limit, request.after, request.purpose) == (7, "file-3", "batch")
    assert request.order == SortOrder.SORT_ORDER_ASC


@pytest.mark.parametrize(
    ("verb", "path", "answer"),
    [
        ("GET", "/v1/batches", ListBatchesResponse()),
        ("GET", "/east/batches/batch_1", GetBatchResponse()),
        ("POST", "/v1/batches/batch_1/cancel", CancelBatchResponse()),
        ("GET", "/files/file-1", GetFileResponse()),
        ("DELETE", "/v1/files/file-1", DeleteFileResponse(id="file-1", deleted=True)),
    ],
)
async def test_calls_without_a_body_reach_their_rpc(shim: Shim, verb: str, path: str, answer: object) -> None:
    shim.service.answer = answer  # type: ignore[assignment]
    assert (await shim.client.request(verb, path)).status_code == 200
    (request,) = shim.service.requests
    assert type(request).__name__ == type(answer).__name__.replace("Response", "Request")


@pytest.mark.parametrize(
    ("controls", "fresh"),
    [
        (["no-cache"], True),
        (["max-age=0,No-Cache"], True),
        (["no-store", "private , no-cache"], True),
        (["no-cachet"], False),
        (["max-age=0"], False),
        ([""], False),
        ([], False),
    ],
)
async def test_a_header_may_ask_for_a_fresh_batch(shim: Shim, controls: list[str], fresh: bool) -> None:
    shim.service.answer = GetBatchResponse(batch=Batch(age_seconds=7))
    answer = await shim.client.get("/v1/batches/b?fresh=true", headers=[("cache-control", one) for one in controls])
    assert (answer.headers["x-batchyard-age"], "age_seconds" in answer.json()) == ("7", False)
    (request,) = shim.service.requests
    assert (request.batch_id, request.fresh) == ("b", fresh)


async def test_what_has_no_age_has_no_header_for_it(shim: Shim) -> None:
    for path, answer in (("/v1/files/file-1", GetFileResponse()), ("/v1/batches", ListBatchesResponse())):
        shim.service.answer = answer
        assert "x-batchyard-age" not in (await shim.client.get(path)).headers


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=abc", "limit"), ("limit=1.5", "limit"), ("limit=99999999999", "limit"), ("limit=", "limit"),
     ("order=up", "order"), ("order=unspecified", "order"), ("limit=" + "9" * 5000, "limit")],
)  # fmt: skip
async def test_a_bad_query_value_is_refused_by_name(shim: Shim, query: str, param: str) -> None:
    answer = await shim.client.get(f"/v1/files?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert shim.service.requests == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "We could not parse the JSON body of your request. Expecting value (line 1, column 1)."),
        (b'{\n  "endpoint": x}', "(line 2, column 15)"),
        (b'{"endpoint": NaN}', "could not parse"),
        (b"[" * 200_000, "could not parse"),
        (b'{"endpoint": ' + b"9" * 5000 + b"}", "could not parse"),
        (b"\xff\xfe", "could not parse"),
        (b"[1]", "Invalid type: expected an object, but got an array instead."),
        (b"null", "Invalid type: expected an object, but got null instead."),
        (b'{"endpoint": 5}', "Invalid type for 'endpoint': expected a string, but got an integer instead."),
        (b'{"x\\ud800": 5}', "not valid Unicode"),
        (b'{"target_model_names": "\\ud800"}', "Invalid 'target_model_names': not valid Unicode."),
        (b'{"model": "a", "target_model_names": ["a", "\\udc00"]}', "Invalid 'target_model_names': not valid Unicode."),
    ],
)
async def test_a_bad_body_is_refused_in_the_envelope(shim: Shim, body: bytes, words: str) -> None:
    answer = await shim.client.post("/v1/batches", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert shim.service.requests == []


async def test_a_body_beyond_a_mebibyte_is_413(shim: Shim) -> None:
    answer = await shim.client.post("/v1/batches", content=b'"' + b"x" * 2_000_000)
    assert answer.status_code == 413


async def test_a_body_that_does_not_come_is_408() -> None:
    async with running_shim(idle=0.2) as shim:
        reader, writer = await shim.send_raw(b"POST /v1/batches HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        assert b"408" in await reader.readline()
        writer.close()


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/east/v1/batches", {}, {}),
        ("/v1/batches", {"custom-llm-provider": "east"}, {}),
        ("/v1/batches?provider=east", {}, {}),
        ("/v1/batches?custom_llm_provider=east", {}, {}),
        ("/v1/batches", {}, {"custom_llm_provider": "east"}),
        ("/east/batches?provider=east", {"custom-llm-provider": "east"}, {"provider": "east"}),
    ],
)
async def test_the_provider_comes_from_wherever_it_is_named(
    shim: Shim, path: str, headers: dict[str, str], body: dict[str, str]
) -> None:
    shim.service.answer = CreateBatchResponse()
    assert (await shim.client.post(path, json={**BATCH, **body}, headers=headers)).status_code == 200
    assert shim.service.requests[0].provider == "east"


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/west/v1/batches", {"custom-llm-provider": "east"}, {}),
        ("/west/v1/batches?provider=east", {}, {}),
        ("/v1/batches?provider=east", {"custom-llm-provider": "west"}, {}),
        ("/v1/batches?provider=east&custom_llm_provider=west", {}, {}),
        ("/west/batches", {}, {"provider": "east"}),
    ],
)
async def test_two_different_providers_are_refused(
    shim: Shim, path: str, headers: dict[str, str], body: dict[str, str]
) -> None:
    answer = await shim.client.post(path, json={**BATCH, **body}, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "provider"
    assert shim.service.requests == []


async def test_the_services_refusal_is_answered_in_the_envelope(shim: Shim) -> None:
    shim.service.answer = Refusal(StatusCode.FAILED_PRECONDITION, "It has ended.", "BATCH_ENDED")
    answer = await shim.client.post("/v1/batches/batch_1/cancel")
    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["message"] == "It has ended."
