import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.harness import chat_line, jsonl
from tests.upstream.azure import FakeAzure, fake_azure
from tests.upstream.plain import LINES, create, rest, upload
from tests.upstream.quirks import Quirks

NOW = 1743398147.0
DAY = 86400
V1, OLDER, VERSION = "/openai/v1", "/openai", "api-version=2024-10-21"
FILE = """{"status":"processed","bytes":817,"purpose":"batch","filename":"test.jsonl","expires_at":1744607747,
"id":"file-7733bc35e32841e297a62a9ee50b3461","created_at":1743398147,"object":"file"}"""


@pytest.fixture
async def fake() -> AsyncIterator[FakeAzure]:
    async with fake_azure(clock=lambda: NOW) as running:
        yield running


@pytest.fixture
async def client(fake: FakeAzure) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(fake) as opened:
        yield opened


def client_of(fake: FakeAzure) -> httpx.AsyncClient:
    return rest(fake.api_base, api_key=fake.key)


async def uploaded(client: httpx.AsyncClient, data: bytes = LINES, life: dict[str, str] | None = None) -> str:
    """Uploads to v1, waits for the file to be processed, and returns its id."""
    file_id: str = (await upload(client, data, path=f"{V1}/files", fields=life)).json()["id"]
    assert (await client.get(f"{V1}/files/{file_id}")).json()["status"] == "processed"
    return file_id


async def seen_by(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = (await client.get(f"{V1}/batches/{batch_id}")).json()
    return batch


def error_of(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"code", "message"}
    return answer.status_code, error["code"]


async def test_file_has_the_members_of_a_real_one(client: httpx.AsyncClient) -> None:
    life = {"expires_after.seconds": str(14 * DAY), "expires_after.anchor": "created_at"}
    answer = await upload(client, path=f"{V1}/files", fields=life)
    file = answer.json()
    assert answer.status_code == 200
    assert file.keys() == json.loads(FILE).keys()
    assert (file["status"], file["expires_at"]) == ("pending", int(NOW) + 14 * DAY)
    assert len(file["id"]) == len("file-7733bc35e32841e297a62a9ee50b3461")
    assert (await client.get(f"{V1}/files/{file['id']}")).json() == {**file, "status": "processed"}


async def test_older_family(client: httpx.AsyncClient, fake: FakeAzure) -> None:
    answer = await upload(client, path=f"{OLDER}/files?{VERSION}")
    file = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{fake.api_base}{OLDER}/files/{file['id']}?{VERSION}"
    assert (await client.get(answer.headers["location"])).json()["status"] == "processed"
    listed = (await client.get(f"{OLDER}/files?{VERSION}&limit=0")).json()
    assert listed.keys() == {"object", "data"}
    batch = (await create(client, file["id"], path=f"{OLDER}/batches?{VERSION}")).json()
    assert batch["endpoint"] == "/chat/completions"
    assert (await client.get(f"{OLDER}/batches?{VERSION}")).json()["data"][0]["id"] == batch["id"]
    assert fake.requests[-1].query == {"api-version": "2024-10-21"}
    for path in (f"{OLDER}/files", f"{OLDER}/deployments/x/files?{VERSION}"):
        missing = await client.get(path)
        assert missing.status_code == 404
        assert missing.json() == {"error": {"code": "404", "message": "Resource not found"}}
    assert error_of(await client.get(f"{OLDER}/files?api-version=new")) == (400, "BadRequest")


async def test_pending_file_makes_no_batch(client: httpx.AsyncClient) -> None:
    file_id = (await upload(client, path=f"{V1}/files")).json()["id"]
    answer = await create(client, file_id, path=f"{V1}/batches")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        f"The input file '{file_id}' is in 'pending' state. Only files with status 'Processed' are accepted for batch "
        "inferencing. Please check the file status and try again"
    )


async def test_completed_batch_has_an_empty_error_file(client: httpx.AsyncClient, fake: FakeAzure) -> None:
    answer = await create(client, await uploaded(client), path=f"{V1}/batches")
    batch_id = answer.json()["id"]
    assert len(batch_id) == len("batch_") + 36
    fake.run(batch_id)
    batch = await seen_by(client, batch_id)
    assert fake.files[batch["error_file_id"]].size == 0
    assert len(batch["output_file_id"]) == len("file-") + 36
    first = json.loads(fake.files[batch["output_file_id"]].data.splitlines()[0])
    assert first.keys() == {"custom_id", "response", "error"}
    assert first["response"].keys() == {"body", "request_id", "status_code"}
    assert "prompt_filter_results" in first["response"]["body"]


async def test_lines_may_lack_the_prefix_and_errors_have_azures_names(client: httpx.AsyncClient) -> None:
    lines = [{**chat_line("a"), "url": "/chat/completions"}, {**chat_line("b"), "url": "/x"}, chat_line("c", model="m")]
    answer = await create(client, await uploaded(client, jsonl(lines)), path=f"{V1}/batches")
    errors = (await seen_by(client, answer.json()["id"]))["errors"]["data"]
    assert [(one["line"], one["code"]) for one in errors] == [(2, "url_mismatch"), (3, "model_mismatch")]


@pytest.mark.parametrize(("data", "code"), [(b"", "empty_file"), (b"\xef\xbb\xbf" + LINES, "invalid_request")])
async def test_inputs_that_fail_late(client: httpx.AsyncClient, data: bytes, code: str) -> None:
    answer = await create(client, await uploaded(client, data), path=f"{V1}/batches", completion_window="24h")
    assert (await seen_by(client, answer.json()["id"]))["errors"]["data"][0]["code"] == code


async def test_credentials(fake: FakeAzure) -> None:
    fake.tokens.add("entra")
    cases = [
        ({"api_key": fake.key}, 200, 200),
        ({"api_key": "wrong"}, 401, 401),
        ({"authorization": f"Bearer {fake.key}"}, 401, 200),
        ({"authorization": "Bearer entra"}, 200, 200),
        ({}, 401, 401),
    ]
    for headers, older, v1 in cases:
        async with rest(fake.api_base, **headers) as client:
            answers = [await client.get(f"{OLDER}/files?{VERSION}"), await client.get(f"{V1}/files")]
        assert [answer.status_code for answer in answers] == [older, v1], headers
        assert all(answer.json()["error"]["code"] == "401" for answer in answers if answer.status_code == 401)
    async with fake_azure(Quirks(old_errors=True)) as old, rest(old.api_base) as client:
        assert (await client.get(f"{V1}/files")).json().keys() == {"statusCode", "message"}


async def test_headers_of_answers(client: httpx.AsyncClient) -> None:
    headers = (await client.get(f"{V1}/files", headers={"x-ms-client-request-id": "mine"})).headers
    assert len(headers["apim-request-id"]) == 36
    assert headers["x-ms-client-request-id"] == "mine"
    assert {"x-request-id", "x-ms-region"} < set(headers)


@pytest.mark.parametrize(
    ("fields", "content_type"),
    [
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}, "text/plain"),
        ({"purpose": "user_data"}, "text/plain"),
        ({}, ""),
    ],
)
async def test_refused_uploads(client: httpx.AsyncClient, fields: dict[str, str], content_type: str) -> None:
    answer = await upload(client, path=f"{V1}/files", fields=fields, content_type=content_type)
    assert error_of(answer) == (400, "invalidPayload")


async def test_files_are_limited(client: httpx.AsyncClient, fake: FakeAzure) -> None:
    fake.file_limit = 1
    await uploaded(client)
    assert error_of(await upload(client, path=f"{V1}/files")) == (400, "quotaExceeded")
    life = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(14 * DAY)}
    await uploaded(client, life=life)


async def test_unknown_things_are_404_and_ended_ones_409(client: httpx.AsyncClient, fake: FakeAzure) -> None:
    assert error_of(await client.get(f"{V1}/files/file-x")) == (404, "notFound")
    assert error_of(await client.post(f"{V1}/batches/batch_x/cancel")) == (404, "notFound")
    batch_id = (await create(client, await uploaded(client), path=f"{V1}/batches")).json()["id"]
    fake.run(batch_id)
    assert error_of(await client.post(f"{V1}/batches/{batch_id}/cancel")) == (409, "conflict")


async def test_quirks() -> None:
    quirks = Quirks(
        pending_reads=3,
        bytes_null_while_pending=True,
        created_201=False,
        delete_empty=True,
        fail_fast_tokens=True,
        zero_byte_error_file=False,
    )
    async with fake_azure(quirks) as fake, client_of(fake) as client:
        answer = await upload(client, path=f"{OLDER}/files?{VERSION}")
        assert (answer.status_code, answer.json()["bytes"]) == (200, None)
        path = f"{V1}/files/{answer.json()['id']}"
        looks = [(await client.get(path)).json() for _ in range(3)]
        assert [look["status"] for look in looks] == ["running", "running", "processed"]
        assert [look["bytes"] for look in looks] == [None, None, len(LINES)]
        refused = await create(client, answer.json()["id"], path=f"{V1}/batches")
        assert error_of(refused) == (400, "token_limit_exceeded")
        deleted = await client.delete(path)
        assert (deleted.status_code, deleted.content) == (204, b"")
    async with fake_azure(Quirks(failed_as_completed=True, lines_as_text=True)) as fake, client_of(fake) as client:
        answer = await create(client, await uploaded(client, b"{\n"), path=f"{V1}/batches")
        batch = await seen_by(client, answer.json()["id"])
        assert (batch["status"], batch["failed_at"], batch["errors"]["data"][0]["line"]) == ("failed", None, "1")
        assert all((batch["completed_at"], batch["output_file_id"], batch["error_file_id"]))
