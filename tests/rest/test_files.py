"""Uploads and downloads through both processes."""

from collections.abc import AsyncIterator

import pytest
from tests.harness import chat_lines, jsonl

from .conftest import FILE_KEYS, FORM, Door, Part, form, refusal

CONTENT = jsonl(chat_lines(3))
FILE = ("file", CONTENT, "mydata.jsonl")
PURPOSE = ("purpose", "batch")
DAY = 86_400


async def content(door: Door, file_id: str) -> bytes:
    return (await door.rest.get(f"/v1/files/{file_id}/content")).content


@pytest.mark.parametrize("parts", [(PURPOSE, FILE), (FILE, PURPOSE)])
async def test_the_file_may_come_before_its_purpose_and_after(door: Door, parts: tuple[Part, ...]) -> None:
    answer = await door.rest.post("/v1/files", content=form(*parts), headers=FORM)
    assert answer.status_code == 200, answer.text
    file = answer.json()
    assert set(file) == FILE_KEYS
    assert (file["purpose"], file["filename"], file["bytes"]) == ("batch", "mydata.jsonl", len(CONTENT))
    assert (file["object"], file["status"], file["status_details"]) == ("file", "processed", None)
    assert file["expires_at"] == file["created_at"] + 30 * DAY
    assert await content(door, file["id"]) == CONTENT


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_chunked_upload_of_any_cut_is_stored(door: Door, size: int) -> None:
    whole = form(FILE, PURPOSE)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), size):
            yield whole[start : start + size]

    answer = await door.rest.post("/v1/files", content=pieces(), headers=FORM)
    assert "content-length" not in answer.request.headers
    assert await content(door, answer.json()["id"]) == CONTENT


@pytest.mark.parametrize("spelling", ["expires_after[{}]", "expires_after.{}"])
@pytest.mark.parametrize("late", [False, True])
async def test_an_expiry_is_understood_in_both_spellings(door: Door, spelling: str, late: bool) -> None:
    expiry = [(spelling.format("anchor"), "created_at"), (spelling.format("seconds"), "3600")]
    parts: list[Part] = [PURPOSE, FILE, *expiry] if late else [*expiry, PURPOSE, FILE]
    file = (await door.rest.post("/v1/files", content=form(*parts), headers=FORM)).json()
    assert file["expires_at"] == file["created_at"] + 3600


async def test_a_file_of_another_purpose_never_expires(door: Door) -> None:
    file = await door.upload(b"anything", filename="a.bin", purpose="user_data")
    assert (file["expires_at"], file["status"]) == (None, "processed")


AZURES = ["/local/openai", "/local/openai/v1", "/local/deployments/gpt", "/local/openai/deployments/gpt"]


@pytest.mark.parametrize("prefix", ["/v1", "", "/local/v1", "/local", *AZURES])
async def test_every_form_of_the_path_serves_files_and_batches(door: Door, prefix: str) -> None:
    made = (await door.rest.post(f"{prefix}/files", content=form(PURPOSE, FILE), headers=FORM)).json()
    path = f"{prefix}/files/{made['id']}"
    assert (await door.rest.get(path)).json() == made
    assert (await door.rest.get(f"{path}/content")).content == CONTENT
    assert (await door.rest.get(f"{prefix}/files")).json()["data"] == [made]
    body = {"input_file_id": made["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await door.rest.post(f"{prefix}/batches", json=body)).json()
    await door.ended(batch["id"])
    assert (await door.rest.get(f"{prefix}/batches/{batch['id']}")).json()["status"] == "completed"
    assert [one["id"] for one in (await door.rest.get(f"{prefix}/batches")).json()["data"]] == [batch["id"]]
    assert (await door.rest.delete(path)).json() == {"id": made["id"], "object": "file", "deleted": True}
    assert (await door.rest.get(path)).status_code == 404


@pytest.mark.parametrize("name", ["provider", "custom_llm_provider"])
async def test_a_form_field_and_a_header_name_the_provider(door: Door, name: str) -> None:
    parts = form((name, "local"), PURPOSE, FILE)
    headers = FORM | {"custom-llm-provider": "local"}
    assert (await door.rest.post("/v1/files", content=parts, headers=headers)).status_code == 200
    assert (await door.rest.post("/v1/files", content=form((name, "moon"), PURPOSE, FILE), headers=FORM)).is_error


async def test_a_part_of_a_file_is_read(door: Door) -> None:
    file = await door.upload(CONTENT)
    answer = await door.rest.get(f"/v1/files/{file['id']}/content", headers={"range": "bytes=5-9"})
    assert (answer.status_code, answer.content) == (206, CONTENT[5:10])
    assert answer.headers["content-range"] == f"bytes 5-9/{len(CONTENT)}"
    tail = await door.rest.get(f"/v1/files/{file['id']}/content", headers={"range": "bytes=-4"})
    assert (tail.status_code, tail.content) == (206, CONTENT[-4:])


async def test_files_are_listed_page_by_page_in_both_orders(door: Door) -> None:
    made = [(await door.upload(CONTENT, filename=f"{number}.jsonl"))["id"] for number in range(5)]
    for order, expected in (("asc", made), ("desc", made[::-1])):
        seen: list[str] = []
        more = True
        while more:
            after = {"after": seen[-1]} if seen else {}
            page = (await door.rest.get("/v1/files", params={"order": order, "limit": 2, **after})).json()
            assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
            seen += [file["id"] for file in page["data"]]
            more = page["has_more"]
        assert seen == expected
    assert (await door.rest.get("/v1/files?purpose=vision")).json()["data"] == []


@pytest.mark.parametrize("ranged", [{}, {"Range": "bytes=5-9"}])
async def test_a_file_whose_bytes_changed_is_500_and_gives_none_of_them(door: Door, ranged: dict[str, str]) -> None:
    answer = await door.rest.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", b"hello, world")})
    (door.store / "files" / answer.json()["id"]).write_bytes(b"hello, World")
    got = await door.rest.get(f"/v1/files/{answer.json()['id']}/content", headers=ranged)
    error = refusal(got, 500)
    assert (error["type"], error["message"]) == ("server_error", "Stored bytes of this file are missing or damaged.")
