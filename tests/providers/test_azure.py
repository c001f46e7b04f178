"""What Azure does differently (facts 5 and 9), and what callers see instead."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.harness import chat_lines, jsonl, until
from tests.rest.conftest import ENDED_WORDS, refusal
from tests.upstream.azure import fake_azure
from tests.upstream.exchange import Seen
from tests.upstream.faults import Answer
from tests.upstream.lines import batch_error
from tests.upstream.quirks import Quirks

from .scene import CREATE, GET_FILE, INPUT, LIST, UPLOAD, Scene, before, scene

DAY = 86_400
PATIENCE = 10.0
IDS = ("output_file_id", "error_file_id")
VERSIONS = {"older": "2025-04-01-preview", "newer": "v1"}


async def completed(found: Scene, data: bytes = INPUT) -> dict[str, Any]:
    """A batch that ran to its end."""
    return await found.door.ended((await found.door.create((await found.door.upload(data))["id"]))["id"])


async def told_to(found: Scene, batch_id: str, good: Any) -> dict[str, Any]:
    async def look() -> dict[str, Any]:
        return dict((await found.door.rest.get(f"/v1/batches/{batch_id}")).json())

    return await until(look, good, PATIENCE)


class TestItsUrls:
    @pytest.mark.parametrize(
        ("version", "base", "query"),
        [
            ("2025-04-01-preview", "/openai/", {"api-version": "2025-04-01-preview"}),
            ("2024-10-21", "/openai/", {"api-version": "2024-10-21"}),
            ("v1", "/openai/v1/", {}),
        ],
    )
    async def test_are_of_either_family(self, tmp_path: Path, version: str, base: str, query: dict[str, str]) -> None:
        async with fake_azure() as fake, before(fake, tmp_path, "azure", deployment={"api_version": version}) as found:
            batch = await completed(found)
            assert batch["status"] == "completed"
            assert (await found.door.rest.get(f"/v1/files/{batch['output_file_id']}/content")).status_code == 200
            assert all(seen.path.startswith(base) and query.items() <= seen.query.items() for seen in fake.requests)
            assert all(seen.path.startswith("/openai/v1/") == (version == "v1") for seen in fake.requests)

    @pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
    async def test_are_shown_a_key_or_a_token(self, tmp_path: Path, version: str) -> None:
        async with fake_azure() as fake:
            fake.tokens.add("entra")
            for folder, shown, header in (
                ("key", {"api_key": fake.key}, ("api-key", fake.key)),
                ("token", {"api_key": None, "ad_token": "entra"}, ("authorization", "Bearer entra")),
            ):
                fake.requests.clear()
                deployment = {"api_version": version, **shown}
                async with before(fake, tmp_path / folder, "azure", deployment=deployment) as found:
                    await found.input()
                name, value = header
                other = {"api-key": "authorization", "authorization": "api-key"}[name]
                assert fake.requests
                assert all(seen.headers[name] == value and other not in seen.headers for seen in fake.requests)


class TestAFilesLife:
    @pytest.mark.parametrize(
        ("version", "settings", "given", "sent"),
        [
            ("v1", {}, None, 14 * DAY),
            ("2025-04-01-preview", {}, None, 14 * DAY),
            ("2025-04-01-preview", {"azure_file_seconds": 20 * DAY}, None, 20 * DAY),
            ("2025-04-01-preview", {"azure_file_seconds": 3600}, None, 14 * DAY),
            ("2025-04-01-preview", {"azure_file_seconds": 0}, None, None),
            ("2024-10-21", {}, None, None),
            ("v1", {}, 14 * DAY, 14 * DAY),
            ("v1", {"azure_file_seconds": 0}, 30 * DAY, 30 * DAY),
            ("2025-04-01-preview", {}, 15 * DAY, 15 * DAY),
        ],
    )
    async def test_is_what_was_said_or_ours(
        self, tmp_path: Path, version: str, settings: dict[str, Any], given: int | None, sent: int | None
    ) -> None:
        deployment = {"api_version": version}
        async with fake_azure() as fake, before(fake, tmp_path, "azure", deployment=deployment, **settings) as found:
            fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(given)} if given else {}
            file = await posted(found, {"purpose": "batch", **fields})
            assert fields_of(fake.requests[0]) == {"purpose": "batch", **life(sent)}
            assert file["expires_at"] == (file["created_at"] + sent if sent else None)

    async def test_of_another_purpose_has_no_end(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as found:
            assert (await posted(found, {"purpose": "assistants"}))["expires_at"] is None

    @pytest.mark.parametrize("seconds", [3600, 14 * DAY - 1])
    async def test_that_azure_does_not_take_is_refused(self, tmp_path: Path, seconds: int) -> None:
        async with scene(tmp_path, "azure") as found:
            fields = {"purpose": "batch", **life(seconds)}
            answer = await found.door.rest.post("/v1/files", data=fields, files={"file": ("a.jsonl", INPUT)})
            assert refusal(answer, 400)["param"] == "expires_after.seconds"
            assert found.fake.files == {}

    async def test_of_results_is_passed_on(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as found:
            after = {"anchor": "created_at", "seconds": 15 * DAY}
            assert (await found.post(await found.input(), output_expires_after=after)).status_code == 200
            (sent,) = filter(CREATE, found.fake.requests)
            assert sent.body["output_expires_after"] == after


def life(seconds: int | None) -> dict[str, str]:
    return {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(seconds)} if seconds else {}


def fields_of(seen: Seen) -> dict[str, str]:
    return {part.name: part.value for part in seen.parts if part.name != "file"}


async def posted(found: Scene, fields: dict[str, str]) -> dict[str, Any]:
    answer = await found.door.rest.post("/v1/files", data=fields, files={"file": ("a.jsonl", INPUT)})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


class TestAFile:
    @pytest.mark.parametrize("created_201", [True, False])
    async def test_that_is_created_is_fine_for_us(self, tmp_path: Path, created_201: bool) -> None:
        async with scene(tmp_path, "azure", Quirks(created_201=created_201)) as found:
            await found.input()
            assert [seen.status for seen in filter(UPLOAD, found.fake.requests)] == [201 if created_201 else 200]

    async def test_that_is_pending_is_uploaded(self, tmp_path: Path) -> None:
        quirks = Quirks(pending_reads=3, bytes_null_while_pending=True)
        async with scene(tmp_path, "azure", quirks) as found:
            file = await posted(found, {"purpose": "batch"})
            assert (file["status"], file["bytes"], file["status_details"]) == ("uploaded", 0, None)
            seen = [(await found.door.rest.get(f"/v1/files/{file['id']}")).json() for _ in range(3)]
            assert [one["status"] for one in seen] == ["uploaded", "uploaded", "processed"]
            assert seen[-1]["bytes"] == len(INPUT)
            before = found.calls(GET_FILE)
            await found.door.rest.get(f"/v1/files/{file['id']}")
            assert found.calls(GET_FILE) == before

    async def test_that_is_pending_is_waited_for_before_a_batch(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", Quirks(pending_reads=3)) as found:
            assert (await found.post(await found.input())).status_code == 200
            assert (found.calls(CREATE), found.calls(GET_FILE)) == (1, 3)

    @pytest.mark.parametrize("status", ["deleting", "deleted", "error"])
    async def test_that_is_going_is_an_error(self, tmp_path: Path, status: str) -> None:
        async with scene(tmp_path, "azure") as found:
            file_id = await found.input()
            description = {**found.fake.files[file_id].description, "status": status}
            found.fake.fault(Answer(200, description), where=GET_FILE)
            assert (await found.door.rest.get(f"/v1/files/{file_id}")).json()["status"] == "error"

    @pytest.mark.parametrize("delete_empty", [True, False])
    async def test_is_deleted_whatever_is_said(self, tmp_path: Path, delete_empty: bool) -> None:
        async with scene(tmp_path, "azure", Quirks(delete_empty=delete_empty)) as found:
            file_id = await found.input()
            answer = await found.door.rest.delete(f"/v1/files/{file_id}")
            assert answer.json() == {"id": file_id, "object": "file", "deleted": True}
            assert found.fake.files[file_id].deleted


class TestABatch:
    @pytest.mark.parametrize("quirk", ["endpoint_empty", "endpoint_null"])
    async def test_whose_endpoint_is_not_told_has_the_one_that_was_asked_for(self, tmp_path: Path, quirk: str) -> None:
        untold: dict[str, Any] = {quirk: True}
        async with scene(tmp_path, "azure", Quirks(auto=False, **untold)) as found:
            made = (await found.post(await found.input())).json()
            found.fake.step(made["id"])
            seen = await told_to(found, made["id"], lambda batch: batch["status"] == "in_progress")
            assert [one["endpoint"] for one in (made, seen, *await found.listed())] == ["/v1/chat/completions"] * 3

    @pytest.mark.parametrize(
        "quirks",
        [
            Quirks(empty_ids=True),
            Quirks(iso_times=True),
            Quirks(cased_status=True),
            Quirks(null_counts=True),
            Quirks(endpoint_prefix_dropped=True),
            Quirks(list_value_key=True),
            Quirks(list_without_more=True),
            Quirks(zero_byte_error_file=True),
            Quirks(empty_ids=True, iso_times=True, cased_status=True, null_counts=True, list_value_key=True),
        ],
        ids=lambda quirks: ",".join(name for name, value in vars(quirks).items() if value != getattr(Quirks(), name)),
    )
    async def test_looks_as_openais_do_in_every_state(self, tmp_path: Path, quirks: Quirks) -> None:
        async with scene(tmp_path, "azure", replace(quirks, auto=False)) as found:
            made = (await found.post(await found.input())).json()
            check(made, "validating", None)
            for status in ("in_progress", "finalizing", "completed"):
                found.fake.step(made["id"])
                batch = await told_to(found, made["id"], lambda batch, status=status: batch["status"] == status)
                check(batch, status, found.fake.batches[made["id"]]["output_file_id"])
            assert isinstance(batch["completed_at"], int)
            assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
            assert (await found.listed()) == [batch]
            files = (await found.door.rest.get("/v1/files")).json()["data"]
            assert {file["id"] for file in files} == {batch["output_file_id"], batch["input_file_id"]}

    async def test_goes_without_v1_and_comes_with_it(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as found:
            batch = (await found.post(await found.input())).json()
            (sent,) = filter(CREATE, found.fake.requests)
            assert (sent.body["endpoint"], batch["endpoint"]) == ("/chat/completions", "/v1/chat/completions")

    async def test_with_bad_lines_names_them_in_openais_words(self, tmp_path: Path) -> None:
        lines = [dict(line) for line in chat_lines(3)]
        lines[1]["url"] = "/v1/responses"
        lines[2]["body"] = {**lines[2]["body"], "model": "other"}
        async with scene(tmp_path, "azure", Quirks(lines_as_text=True)) as found:
            batch = await completed(found, jsonl(lines))
            assert batch["status"] == "failed"
            errors = {error["code"]: error["line"] for error in batch["errors"]["data"]}
            assert errors == {"invalid_url": 2, "mismatched_model": 3}

    async def test_that_failed_says_when(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", Quirks(auto=False, failed_as_completed=True)) as found:
            made = (await found.post(await found.input())).json()
            found.fake.fail(made["id"], [batch_error("empty_batch", "The file is empty.")])
            batch = await told_to(found, made["id"], lambda batch: batch["status"] == "failed")
            assert isinstance(batch["failed_at"], int)
            assert [error["code"] for error in batch["errors"]["data"]] == ["empty_file"]
            assert batch["error_file_id"] is None

    async def test_with_failed_lines_keeps_its_error_file(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", Quirks(auto=False)) as found:
            made = (await found.post(await found.input())).json()
            found.fake.step(made["id"])
            found.fake.expire(made["id"], done=1)
            batch = await told_to(found, made["id"], lambda batch: batch["status"] in ENDED_WORDS)
            assert batch["status"] == "expired"
            content = await found.door.rest.get(f"/v1/files/{batch['error_file_id']}/content")
            assert len(content.content.splitlines()) == 2

    async def test_that_has_too_many_tokens_at_once_is_refused(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", Quirks(fail_fast_tokens=True)) as found:
            error = refusal(await found.post(await found.input()), 400)
            assert error["code"] == "token_limit_exceeded"
            assert found.intents() == 0

    async def test_that_has_too_many_tokens_later_fails(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", Quirks(late_tokens=True)) as found:
            batch = await completed(found)
            assert [error["code"] for error in batch["errors"]["data"]] == ["token_limit_exceeded"]

    @pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
    async def test_is_found_in_lists_without_more(self, tmp_path: Path, version: str) -> None:
        """Of more batches than a list holds the first are followed all the same."""
        quirks = Quirks(auto=False, list_without_more=True)
        async with (
            fake_azure(quirks) as fake,
            before(fake, tmp_path, "azure", deployment={"api_version": version}) as found,
        ):
            file_id = await found.input()
            made = [(await found.post(file_id)).json()["id"] for _ in range(105)]
            fake.run(made[0])
            batch = await told_to(found, made[0], lambda batch: batch["status"] in ENDED_WORDS)
            assert batch["status"] == "completed"
            assert any(LIST(seen) and "after" in seen.query for seen in fake.requests)


def check(batch: dict[str, Any], status: str, output: str | None) -> None:
    """A batch as OpenAI's are, whatever Azure wrote."""
    assert (batch["object"], batch["status"], batch["endpoint"]) == ("batch", status, "/v1/chat/completions")
    assert {name: batch[name] for name in IDS} == {"output_file_id": output, "error_file_id": None}
    times = {name: value for name, value in batch.items() if name.endswith("_at")}
    assert all(value is None or isinstance(value, int) for value in times.values())
    assert batch["expires_at"] == batch["created_at"] + DAY
    assert set(batch["request_counts"]) == {"total", "completed", "failed"}
    assert batch["errors"] is None
