"""An answer about something else, of another form, or of another part than was asked for, is not believed."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.rest.conftest import refusal
from tests.upstream.faults import Answer

from .odd_answers import CANCEL, DELETE, NO_BATCH, STUCK
from .scene import CONTENT, CREATE, GET, GET_FILE, Scene, scene


class TestAnAnswerAboutSomethingElse:
    async def _two(self, found: Scene) -> list[str]:
        file_id = await found.input()
        return [(await found.post(file_id)).json()["id"] for _ in range(2)]

    @pytest.mark.parametrize("body", ["other", *NO_BATCH, {"object": "error", "message": "No."}], ids=repr)
    @pytest.mark.parametrize("where", [GET, CANCEL], ids=["get", "cancel"])
    async def test_is_not_believed_of_a_batch(self, tmp_path: Path, body: Any, where: Callable[..., bool]) -> None:
        async with scene(tmp_path, quirks=STUCK, openai_poll_seconds=3600) as found:
            one, other = await self._two(found)
            said = found.fake.batches[other] | {"status": "completed"} if body == "other" else body
            found.fake.fault(Answer(200, said), times=3, where=where)
            if where is CANCEL:
                answer = await found.door.rest.post(f"/v1/batches/{one}/cancel")
            else:
                answer = await found.door.rest.get(f"/v1/batches/{one}", headers={"cache-control": "no-cache"})
            refusal(answer, 503)
            found.fake.faults.clear()
            assert [batch["status"] for batch in await found.listed()] == ["validating"] * 2
            answer = await found.door.rest.get(f"/v1/batches/{one}", headers={"cache-control": "no-cache"})
            assert (answer.json()["id"], answer.json()["status"]) == (one, "validating")

    async def test_that_is_empty_is_looked_behind_after_a_cancel(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=STUCK) as found:
            one, _ = await self._two(found)
            found.fake.fault(Answer(200, b"", acts=True), where=CANCEL)
            assert (await found.door.rest.post(f"/v1/batches/{one}/cancel")).json()["status"] == "cancelling"

    async def test_is_not_believed_of_a_file(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as found:
            one, other = [await found.input() for _ in range(2)]
            bodies: list[Any] = [found.fake.files[other].description, {}, [], {"id": one, "object": "batch"}]
            for body in bodies:
                found.fake.fault(Answer(200, body), times=3, where=GET_FILE)
                refusal(await found.door.rest.get(f"/v1/files/{one}"), 503)
                found.fake.faults.clear()
            assert (await found.door.rest.get(f"/v1/files/{one}")).json()["id"] == one

    @pytest.mark.parametrize("body", [{"id": "file-other", "deleted": True}, {"deleted": False}], ids=repr)
    async def test_is_not_believed_of_a_delete(self, tmp_path: Path, body: Any) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Answer(200, body), where=DELETE)
            refusal(await found.door.rest.delete(f"/v1/files/{file_id}"), 503)
            assert (await found.door.rest.get(f"/v1/files/{file_id}")).status_code == 200
            assert (await found.door.rest.delete(f"/v1/files/{file_id}")).json()["deleted"]

    async def test_is_not_believed_of_a_result(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Answer(200, {"id": file_id, "object": "file", "bytes": 1}), times=10_000, where=GET_FILE)
            batch = await found.door.ended((await found.post(file_id)).json()["id"])
            assert len(await found.door.grpc.results(batch["output_file_id"])) == 3


class TestAnAnswersForm:
    async def test_that_is_packed_is_unpacked(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=STUCK) as found:
            batch_id = (await found.post(await found.input())).json()["id"]
            plain = json.dumps({**found.fake.batches[batch_id], "status": "in_progress"}).encode()
            for name, body in (("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain)), ("gzip", plain)):
                found.fake.fault(Answer(200, body, {"content-encoding": name}), where=GET)
                answer = await found.door.rest.get(f"/v1/batches/{batch_id}", headers={"cache-control": "no-cache"})
                assert answer.json()["status"] == "in_progress"

    @pytest.mark.parametrize(
        "body",
        [gzip.compress(b'{"x": "' + b"x" * (40 << 20) + b'"}'), gzip.compress(b"[" + b"{}," * 3_000_000 + b"{}]")],
        ids=["bytes", "members"],
    )
    async def test_that_is_packed_far_too_tightly_is_none(self, tmp_path: Path, body: bytes) -> None:
        async with scene(tmp_path, quirks=STUCK, max_attempts=1) as found:
            batch_id = (await found.post(await found.input())).json()["id"]
            found.fake.fault(Answer(200, body, {"content-encoding": "gzip"}), where=GET)
            refusal(await found.door.rest.get(f"/v1/batches/{batch_id}", headers={"cache-control": "no-cache"}), 503)


class TestAContent:
    @pytest.mark.parametrize(
        "given",
        [
            *("bytes 5-3/10", "bytes 0-1/99999999999999999999", "bytes 0-9223372036854775807/9223372036854775808"),
            *("bytes 7-9/10", "bytes 0-9/5", "bytes 4-5/10", "bytes 9-9/*", "bytes */10", "x", "bytes 0-" + "9" * 400),
        ],
    )
    async def test_of_another_range_than_was_asked_for_is_no_content(self, tmp_path: Path, given: str) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Answer(206, b"0123456789", {"content-range": given}), where=CONTENT)
            answer = await found.door.rest.get(f"/v1/files/{file_id}/content", headers={"range": "bytes=4-9"})
            assert answer.status_code in {500, 502, 503}, answer.text
            assert answer.headers["content-type"] == "application/json"

    async def test_of_which_nobody_asked_for_a_part_must_be_whole(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Answer(206, b"01234", {"content-range": "bytes 0-4/10"}), where=CONTENT)
            assert (await found.door.rest.get(f"/v1/files/{file_id}/content")).status_code >= 500


class TestAWait:
    @pytest.mark.parametrize("given", ["1e309", "nan", "-inf", "soon", "9" * 400])
    @pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
    async def test_that_is_none_is_not_passed_on(self, tmp_path: Path, name: str, given: str) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Answer(429, {"error": {"message": "Later."}}, {name: given}), where=CREATE)
            answer = await found.post(file_id)
            refusal(answer, 429)
            assert name not in answer.headers


class TestAHeader:
    @pytest.mark.parametrize("value", ["a\tb", "\u00e9", "x" * 10_000], ids=lambda value: repr(value[:4]))
    async def test_that_cannot_be_sent_on_hides_no_refusal(self, tmp_path: Path, value: str) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            headers = {"x-ratelimit-odd": value, "x-ratelimit-reset-tokens": "1s", "x-request-id": value}
            found.fake.fault(Answer(400, {"error": {"message": "No."}}, headers), where=CREATE)
            answer = await found.post(file_id)
            assert refusal(answer, 400)["message"] == "No."
            assert (answer.headers["x-ratelimit-reset-tokens"], "x-ratelimit-odd" in answer.headers) == ("1s", False)
