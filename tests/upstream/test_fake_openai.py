import asyncio
import json
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from tests.harness import chat_line, jsonl
from tests.upstream.openai import FakeOpenAI, fake_openai
from tests.upstream.plain import LINES, create, rest, upload
from tests.upstream.quirks import Quirks

NOW = 1743825229.5
FILE = """{"object":"file","id":"file-52voFe6FU6MWyAwa1Uj39R","purpose":"batch","filename":"in.jsonl",
 "bytes":170,"created_at":1787176071,"expires_at":1789768071,"status":"processed","status_details":null}"""
BATCH = """
{"id":"batch_67f0a94dd3f88190aa0851cd92539a09","object":"batch","endpoint":"/v1/responses","model":null,
 "errors":null,"input_file_id":"file-JdhoBwvPwGcb5DVvZTkKwq","completion_window":"24h","status":"validating",
 "output_file_id":null,"error_file_id":null,"created_at":1743825229,"in_progress_at":null,"expires_at":1743911629,
 "finalizing_at":null,"completed_at":null,"failed_at":null,"expired_at":null,"cancelling_at":null,"cancelled_at":null,
 "request_counts":{"total":0,"completed":0,"failed":0},
 "usage":{"input_tokens":0,"input_tokens_details":{"cached_tokens":0},"output_tokens":0,
 "output_tokens_details":{"reasoning_tokens":0},"total_tokens":0},
 "metadata":null}"""


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with fake_openai(clock=lambda: NOW) as running:
        yield running


@pytest.fixture
async def client(fake: FakeOpenAI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(fake) as opened:
        yield opened


def client_of(fake: FakeOpenAI, **headers: str) -> httpx.AsyncClient:
    return rest(fake.api_base, authorization=f"Bearer {fake.key}", **headers)


async def created(client: httpx.AsyncClient, data: bytes = LINES, **more: Any) -> str:
    file_id = (await upload(client, data)).json()["id"]
    batch_id: str = (await create(client, file_id, **more)).json()["id"]
    return batch_id


async def seen_by(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = (await client.get(f"/batches/{batch_id}")).json()
    return batch


def error_of(answer: httpx.Response) -> tuple[int, str, str | None, str | None]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["type"], error["param"], error["code"]


async def test_file_has_the_members_of_a_real_one(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    answer = await upload(client)
    file = answer.json()
    assert answer.status_code == 200
    assert file.keys() == json.loads(FILE).keys()
    assert (file["bytes"], file["status"], file["created_at"]) == (len(LINES), "processed", int(NOW))
    assert file["expires_at"] == int(NOW) + 2592000
    assert len(file["id"]) == len("file-JdhoBwvPwGcb5DVvZTkKwq")
    assert (await client.get(f"/files/{file['id']}")).json() == file
    stored = fake.files[file["id"]]
    assert (stored.data, stored.sha256) == (LINES, sha256(LINES).hexdigest())
    assert (await client.delete(f"/files/{file['id']}")).json() == {"id": file["id"], "object": "file", "deleted": True}
    assert stored.deleted
    gone = await client.get(f"/files/{file['id']}/content")
    assert error_of(gone) == (404, "invalid_request_error", "id", None)
    assert gone.json()["error"]["message"] == f"No such File object: {file['id']}"


async def test_batch_has_the_members_of_a_real_one_and_takes_a_step_a_read(client: httpx.AsyncClient) -> None:
    file_id = (await upload(client)).json()["id"]
    batch = (await create(client, file_id)).json()
    real = json.loads(BATCH)
    assert batch.keys() == real.keys()
    assert batch["usage"] == real["usage"]
    assert batch["expires_at"] == int(NOW) + 86400
    assert len(batch["id"]) == len(real["id"])
    seen = [await seen_by(client, batch["id"]) for _ in range(4)]
    assert [one["status"] for one in seen] == ["in_progress", "finalizing", "completed", "completed"]
    assert [one["request_counts"]["completed"] for one in seen] == [0, 3, 3, 3]
    assert seen[1]["output_file_id"] is None
    last = seen[-1]
    assert last["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert last["error_file_id"] is None
    assert last["usage"]["total_tokens"] == 12
    assert last["model"] == "test-model-2026-03-05"
    output = (await client.get(f"/files/{last['output_file_id']}")).json()
    assert output["purpose"] == "batch_output"
    assert output["filename"] == f"{batch['id']}_output.jsonl"
    content = await client.get(f"/files/{last['output_file_id']}/content")
    results = [json.loads(line) for line in content.text.splitlines()]
    assert results[0].keys() == {"id", "custom_id", "response", "error"}
    assert results[0]["response"].keys() == {"status_code", "request_id", "body"}
    assert [one["custom_id"] for one in results] == ["request-0", "request-1", "request-2"]
    assert results[1]["response"]["body"]["choices"][0]["message"]["content"] == "question 1"


async def test_failing_lines_are_in_the_error_file(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    lines = [chat_line("a", fail=400), chat_line("b", fail="request_timeout")]
    batch_id = await created(client, jsonl(lines))
    fake.run(batch_id)
    batch = await seen_by(client, batch_id)
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    first, second = map(json.loads, fake.files[batch["error_file_id"]].data.splitlines())
    assert (first["response"]["status_code"], first["error"]) == (400, None)
    assert first["response"]["body"]["error"].keys() == {"message", "type", "param", "code"}
    assert (second["response"], second["error"]["code"]) == (None, "request_timeout")


async def test_wrong_lines_fail_the_batch(client: httpx.AsyncClient) -> None:
    wrong = [
        chat_line("same"),
        {**chat_line("u"), "url": "/v1/responses"},
        chat_line("same"),
        {"custom_id": "x"},
        chat_line("m", model="other"),
        chat_line("s", stream=True),
    ]
    batch_id = await created(client, jsonl(wrong) + b"{\n")
    batch = await seen_by(client, batch_id)
    assert (batch["status"], batch["failed_at"]) == ("failed", int(NOW))
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert batch["errors"]["object"] == "list"
    assert [(one["line"], one["code"], one["param"]) for one in batch["errors"]["data"]] == [
        (2, "invalid_url", "url"),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "missing_required_parameter", "method"),
        (5, "mismatched_model", "body.model"),
        (6, "streaming_unsupported", "body.stream"),
        (7, "invalid_json_line", None),
    ]


async def test_batch_of_a_missing_file_is_made_and_fails(client: httpx.AsyncClient) -> None:
    answer = await create(client, "file-missing")
    assert answer.status_code == 200
    errors = (await seen_by(client, answer.json()["id"]))["errors"]["data"]
    text = "Cannot find file file-missing, or organization org-upstream does not have access to it."
    assert errors == [{"code": "invalid_request", "message": text, "param": "file_id", "line": None}]


async def test_cancelled_batch_keeps_what_was_done(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    batch_id = await created(client, jsonl(chat_line(str(n)) for n in range(8)))
    await seen_by(client, batch_id)
    answer = (await client.post(f"/batches/{batch_id}/cancel")).json()
    assert (answer["status"], answer["cancelling_at"]) == ("cancelling", int(NOW))
    batch = await seen_by(client, batch_id)
    assert (batch["status"], batch["request_counts"]) == ("cancelled", {"total": 8, "completed": 4, "failed": 0})
    assert fake.files[batch["output_file_id"]].lines == 4
    codes = {json.loads(line)["error"]["code"] for line in fake.files[batch["error_file_id"]].data.splitlines()}
    assert codes == {"batch_cancelled"}
    assert (await client.post(f"/batches/{batch_id}/cancel")).status_code == 200


async def test_expired_and_failed_as_told(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    first, second = [await created(client) for _ in range(2)]
    fake.step(first)
    fake.expire(first, done=1)
    batch = await seen_by(client, first)
    assert (batch["status"], batch["request_counts"]) == ("expired", {"total": 3, "completed": 1, "failed": 0})
    assert b"batch_expired" in fake.files[batch["error_file_id"]].data
    fake.fail(second, [{"code": "billing_hard_limit_reached", "message": "no", "param": None, "line": None}])
    assert (await seen_by(client, second))["status"] == "failed"
    answer = await client.post(f"/batches/{second}/cancel")
    assert error_of(answer) == (409, "invalid_request_error", None, None)
    assert answer.json()["error"]["message"] == "Cannot cancel a batch with status 'failed'."


async def test_keys(fake: FakeOpenAI) -> None:
    fake.organization = "org-mine"
    answers = {}
    for key in ("", "Bearer sk-proj-1234567890wxyz", f"Bearer {fake.key}"):
        async with rest(fake.api_base, authorization=key, openai_organization="org-other") as client:
            answers[key] = await client.get("/files")
    none, wrong, organization = answers.values()
    assert error_of(none) == (401, "invalid_request_error", None, None)
    assert none.json()["error"]["message"].startswith("You didn't provide an API key.")
    assert error_of(wrong)[3] == "invalid_api_key"
    assert "sk-proj-***wxyz" in wrong.json()["error"]["message"]
    assert error_of(organization)[3] == "mismatched_organization"
    assert fake.requests[-1].headers["openai-organization"] == "org-other"


async def test_headers_of_answers(client: httpx.AsyncClient) -> None:
    headers = (await client.get("/files")).headers
    assert headers["x-request-id"].startswith("req_")
    assert len(headers["x-request-id"]) == 36
    named = {"openai-processing-ms", "openai-version", "openai-organization", "x-ratelimit-remaining-requests"}
    assert named < set(headers)


@pytest.mark.parametrize(
    ("fields", "filename", "data", "param", "message"),
    [
        ({"purpose": "vector_store"}, "in.jsonl", LINES, "purpose", "'vector_store' is not one of ['fine-tune', "),
        ({}, "in.txt", LINES, None, "Invalid file format for Batch API. Must be .jsonl"),
        ({}, "in.jsonl", b"", None, "Invalid file format"),
        ({}, "in.jsonl", b"not json\n", None, "Invalid file format"),
        ({"other": "x"}, "in.jsonl", LINES, None, "Additional properties are not allowed"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
            "in.jsonl",
            LINES,
            "expires_after.seconds",
            "Invalid 'expires_after.seconds': integer below minimum value.",
        ),
    ],
)
async def test_refused_uploads(
    client: httpx.AsyncClient, fields: dict[str, str], filename: str, data: bytes, param: str | None, message: str
) -> None:
    answer = await upload(client, data, filename=filename, fields=fields)
    assert error_of(answer)[::2] == (400, param)
    assert answer.json()["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"endpoint": "/v1/x"}, "endpoint", "invalid_value"),
        ({"completion_window": "48h"}, "completion_window", "invalid_value"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags", "invalid_type"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k", "string_above_max_length"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
        (
            {"output_expires_after": {"anchor": "created_at"}},
            "output_expires_after.seconds",
            "missing_required_parameter",
        ),
        ({"surprise": 1}, "surprise", "unknown_parameter"),
    ],
)
async def test_refused_creates(client: httpx.AsyncClient, more: dict[str, Any], param: str, code: str) -> None:
    assert error_of(await create(client, "file-x", **more)) == (400, "invalid_request_error", param, code)


async def test_unknown_things_are_404(client: httpx.AsyncClient) -> None:
    assert (await client.get("/foo")).json()["error"]["message"] == "Invalid URL (GET /v1/foo)"
    answer = await client.get("/batches/batch_x")
    assert error_of(answer) == (404, "invalid_request_error", None, None)
    assert answer.json()["error"]["message"] == "No batch found with id 'batch_x'."
    assert error_of(await client.post("/batches", content=b"{"))[0] == 400


async def test_pages(client: httpx.AsyncClient) -> None:
    ids = [(await upload(client)).json()["id"] for _ in range(3)]
    first = (await client.get("/files", params={"limit": 2, "purpose": "batch"})).json()
    assert first.keys() == {"object", "data", "first_id", "last_id", "has_more"}
    assert [one["id"] for one in first["data"]] == ids[:0:-1]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, ids[2], ids[1])
    await client.delete(f"/files/{ids[1]}")
    rest_of_them = (await client.get("/files", params={"after": ids[1]})).json()
    assert ([one["id"] for one in rest_of_them["data"]], rest_of_them["has_more"]) == (ids[:1], False)
    oldest = (await client.get("/files", params={"order": "asc", "limit": 1})).json()
    assert oldest["first_id"] == ids[0]
    batches = [(await create(client, ids[0])).json()["id"] for _ in range(2)]
    listed = (await client.get("/batches", params={"limit": 1})).json()
    assert ([one["id"] for one in listed["data"]], listed["has_more"]) == (batches[1:], True)
    assert listed["data"][0]["status"] == "in_progress"
    empty = (await client.get("/batches", params={"after": batches[0]})).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert error_of(await client.get("/batches", params={"limit": 101}))[3] == "integer_above_max_value"


async def test_ranges(client: httpx.AsyncClient) -> None:
    path = f"/files/{(await upload(client)).json()['id']}/content"
    part = await client.get(path, headers={"range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, LINES[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(LINES)}"
    assert (await client.get(path, headers={"range": "bytes=-4"})).content == LINES[-4:]
    unmet = await client.get(path, headers={"range": f"bytes={len(LINES)}-"})
    assert (unmet.status_code, unmet.headers["content-range"]) == (416, f"bytes */{len(LINES)}")


async def test_a_form_is_noted_part_by_part(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    await upload(client, fields={"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    seen = fake.requests[-1]
    names = ["purpose", "expires_after[anchor]", "expires_after[seconds]", "file"]
    assert [part.name for part in seen.parts] == names
    assert (seen.parts[0].value, seen.parts[3].value) == ("batch", sha256(LINES).hexdigest())
    assert seen.parts[3].headers["content-type"] == "application/octet-stream"
    assert (seen.length, seen.chunked, seen.status) == (seen.content_length, False, 200)


async def test_quirks_of_batches() -> None:
    quirks = Quirks(
        empty_ids=True,
        iso_times=True,
        cased_status=True,
        unknown_status=True,
        null_counts=True,
        no_usage=True,
        extra_members=True,
        endpoint_prefix_dropped=True,
        list_value_key=True,
        list_without_more=True,
    )
    async with fake_openai(quirks, clock=lambda: NOW) as fake, client_of(fake) as client:
        file_id = (await upload(client)).json()["id"]
        batch = (await create(client, file_id)).json()
        assert (batch["status"], batch["output_file_id"], batch["request_counts"]) == ("Validating", "", None)
        assert batch["created_at"] == "2025-04-05T03:53:49.0000000+00:00"
        assert (batch["endpoint"], batch["service_tier"]) == ("/chat/completions", "batch")
        assert not {"model", "usage"} & batch.keys()
        statuses = [(await seen_by(client, batch["id"]))["status"] for _ in range(4)]
        assert statuses == ["In_progress", "Paused", "Finalizing", "Completed"]
        listed = (await client.get("/batches")).json()
        assert listed.keys() == {"object", "value"}
        assert listed["value"][0]["error_file_id"] == ""


async def test_tokens_run_out_at_once_or_later() -> None:
    async with fake_openai(Quirks(fail_fast_tokens=True)) as fake, client_of(fake) as client:
        file_id = (await upload(client)).json()["id"]
        assert error_of(await create(client, file_id))[::3] == (400, "token_limit_exceeded")
        assert not fake.batches
    async with fake_openai(Quirks(late_tokens=True)) as fake, client_of(fake) as client:
        batch = await seen_by(client, await created(client))
        assert batch["errors"]["data"][0]["code"] == "token_limit_exceeded"


async def test_nothing_moves_by_itself_without_auto() -> None:
    async with fake_openai(Quirks(auto=False)) as fake, client_of(fake) as client:
        batch_id = await created(client)
        assert [(await seen_by(client, batch_id))["status"] for _ in range(2)] == ["validating"] * 2
        fake.step(batch_id)
        assert (await seen_by(client, batch_id))["status"] == "in_progress"


async def test_files_expire_by_the_clock() -> None:
    now = NOW
    async with fake_openai(clock=lambda: now) as fake, client_of(fake) as client:
        file_id = (await upload(client)).json()["id"]
        now += 30 * 86400
        assert (await client.get(f"/files/{file_id}")).status_code == 404


async def test_discarded_uploads_are_counted_and_contents_made_up() -> None:
    async with fake_openai(Quirks(discard=True, content_bytes=150_500)) as fake, client_of(fake) as client:
        batch_id = await created(client)
        stored = fake.files[fake.batches[batch_id]["input_file_id"]]
        assert (stored.size, stored.data, stored.sha256) == (len(LINES), b"", sha256(LINES).hexdigest())
        fake.run(batch_id)
        batch = fake.batches[batch_id]
        assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
        path = f"/files/{batch['output_file_id']}/content"
        whole = (await client.get(path)).content
        assert len(whole) == 150_500
        results = [json.loads(line) for line in whole.splitlines() if line.strip()]
        assert [one["custom_id"] for one in results] == [f"request-{number}" for number in range(150)]
        part = await client.get(path, headers={"range": "bytes=70123-"})
        assert part.content == whole[70123:]
        assert fake.files[batch["output_file_id"]].description["bytes"] == len(whole)
        assert (await client.get("/files/file-any/content")).content == whole


async def test_only_batches_files_are_downloadable(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    answer = await client.get(f"/files/{fake.add_file(b'x', purpose='assistants')}/content")
    assert error_of(answer)[0] == 400
    assert answer.json()["error"]["message"] == "Not allowed to download files of purpose: assistants"


async def test_extra_members_are_everywhere() -> None:
    async with fake_openai(Quirks(extra_members=True)) as fake, client_of(fake) as client:
        file = (await upload(client)).json()
        batch = (await create(client, file["id"])).json()
        error = (await client.get("/files/file-x")).json()["error"]
    for one in (file, batch, batch["usage"], error):
        assert one["nested"] == {"a": [1, None]}


@pytest.mark.parametrize("kind", ["openai", "azure"])
async def test_a_process_of_its_own(kind: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.upstream", "--kind", kind, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout
        said = (await process.stdout.readline()).decode()
        assert said.startswith("upstream on http://127.0.0.1:")
        base = said.removeprefix("upstream on ").strip()
        async with rest(base) as client:
            assert (await client.get("/openai/v1/files")).status_code == 401
    finally:
        process.kill()
        await process.wait()
