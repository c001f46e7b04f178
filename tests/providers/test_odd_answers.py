"""What a provider says beside what it should say is neither believed nor asked for twice, and hides nothing else."""

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

import pytest
from tests.deployments import DOUBT_SECONDS
from tests.harness import chat_lines, jsonl, until
from tests.rest.conftest import refusal
from tests.upstream.exchange import Seen
from tests.upstream.faults import Answer, Changed, Due, Reset
from tests.upstream.quirks import Quirks

from .odd_answers import CANCEL, NO_BATCH, STUCK
from .scene import CREATE, GET, GET_FILE, INPUT, LIST, UPLOAD, Provider, Scene, scene

PATIENCE = 10.0
ENDINGS = ["=", "==", "x" * 260, "/a/b", " a", "é", "%2F", "?a=b#c", "+", "~", "'\"\\"]
NO_IDS: list[Any] = [None, "", {"a": 1}, [1], True, "..", "x" * 3000]


def changed(**members: Any) -> Changed:
    return Changed(lambda told: {**told, **members})


async def batch_at(found: Scene, batch_id: str) -> dict[str, Any]:
    return dict((await found.door.rest.get(f"/v1/batches/{batch_id}")).json())


class TestAnIdOfAnotherShape:
    @pytest.mark.parametrize("provider", ["openai", "azure"])
    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_is_kept_exactly_and_shown_as_one_of_ours(
        self, tmp_path: Path, ending: str, provider: Provider
    ) -> None:
        async with scene(tmp_path, provider, Quirks(id_ending=ending)) as found:
            file_id = await found.input()
            batch = await found.door.ended((await found.post(file_id)).json()["id"])
            assert batch["status"] == "completed"
            assert (found.calls(UPLOAD), found.calls(CREATE), found.intents()) == (1, 1, 0)
            shown = [file_id, batch["id"], batch["output_file_id"]]
            assert not any(ending in one for one in shown)
            assert len(await found.door.grpc.results(batch["output_file_id"])) == 3
            assert (await found.door.rest.get(f"/v1/files/{file_id}/content")).content == INPUT
            assert (await found.door.rest.delete(f"/v1/files/{file_id}")).json()["deleted"]
            assert next(file.deleted for file in found.fake.files.values())

    async def test_is_found_after_a_lost_answer(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=Quirks(id_ending="=")) as found:
            file_id = await found.input()
            found.fake.fault(Reset(acts=True), where=CREATE)
            answer = await found.post(file_id)
            assert answer.status_code == 200
            assert (found.calls(CREATE), len(found.fake.batches)) == (1, 1)
            assert (await found.door.ended(answer.json()["id"]))["status"] == "completed"


class TestACreationWithoutAnId:
    @pytest.mark.parametrize("body", [*NO_BATCH, *({"id": one, "object": "batch"} for one in NO_IDS)], ids=repr)
    async def test_is_looked_for_by_our_mark(self, tmp_path: Path, body: Any) -> None:
        async with scene(tmp_path, quirks=STUCK) as found:
            file_id = await found.input()
            found.fake.fault(Answer(200, body, acts=True), where=CREATE)
            answer = await found.post(file_id)
            assert answer.status_code == 200, answer.text
            assert [answer.json()["id"]] == list(found.fake.batches)
            assert found.calls(CREATE) == 1

    @pytest.mark.parametrize("body", [{}, {"id": None}, {"id": "file-1", "object": "file"}], ids=repr)
    async def test_is_never_repeated_though_no_list_shows_it(self, tmp_path: Path, body: Any) -> None:
        late = [0.0]
        async with scene(tmp_path, clock=lambda: time() + late[0]) as found:
            file_id = await found.input()
            found.fake.fault(Answer(200, body, acts=True), where=CREATE)
            found.fake.fault(Answer(200, {"data": []}), times=1000, where=LIST)
            answers = [await found.post(file_id, key="k")]
            late[0] = DOUBT_SECONDS + 1
            answers.append(await found.post(file_id, key="k"))
            for answer in answers:
                refusal(answer, 503)
                assert answer.headers["x-should-retry"] == "false"
            assert (found.calls(CREATE), found.intents()) == (1, 1)
            late[0] = 3 * 86_400
            found.fake.faults.clear()
            await until(doubts(found), lambda doubt: doubt == 0, PATIENCE)

    @pytest.mark.parametrize("more", [{}, {"metadata": None}], ids=["marked", "without labels"])
    async def test_that_is_of_another_request_is_not_taken_for_it(self, tmp_path: Path, more: dict[str, Any]) -> None:
        async with scene(tmp_path, quirks=STUCK) as found:
            file_id = await found.input()
            first = (await found.post(file_id)).json()["id"]
            other = found.fake.batches[first] | more
            found.fake.fault(Changed(lambda _: other), where=CREATE)
            second = await found.post(file_id)
            assert {first, second.json()["id"]} == set(found.fake.batches)


class TestACreationThatIsAnsweredByAnotherAddress:
    async def test_is_looked_for(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=STUCK) as found:
            found.fake.fault(Answer(303, b"", {"location": "/v1/batches/x"}, acts=True), where=CREATE)
            answer = await found.post(await found.input())
            assert (answer.status_code, [answer.json()["id"]]) == (200, list(found.fake.batches))
            assert found.calls(CREATE) == 1


class TestACreationWhoseAnswerIsLost:
    @pytest.mark.parametrize("kept", [None, {}], ids=repr)
    async def test_is_found_at_a_provider_that_keeps_no_labels(self, tmp_path: Path, kept: Any) -> None:
        def change(told: Any) -> Any:
            for one in told.get("data", [told]):
                one["metadata"] = kept
            return told

        async with scene(tmp_path, quirks=STUCK) as found:
            for where in (CREATE, LIST, GET):
                found.fake.fault(Changed(change), times=10_000, where=where)
            file_id = await found.input()
            first = (await found.post(file_id)).json()["id"]
            found.fake.faults.insert(0, Due(Reset(acts=True), 1, CREATE))
            second = await found.post(file_id)
            assert second.status_code == 200, second.text
            assert [first, second.json()["id"]] == list(found.fake.batches)

    async def test_is_found_behind_a_page_that_ends_in_an_odd_entry(self, tmp_path: Path) -> None:
        entries = [{"id": "batch_new", "created_at": int(time()) + 9}, {"id": "batch_odd", "created_at": 5}]
        later: dict[str, Any] = {}
        async with scene(tmp_path, quirks=STUCK) as found:

            def follows(seen: Seen) -> bool:
                later["data"] = list(found.fake.batches.values())
                return LIST(seen) and "after" in seen.query

            found.fake.fault(Reset(acts=True), where=CREATE)
            found.fake.fault(Answer(200, later), 10_000, follows)
            found.fake.fault(Answer(200, {"data": entries, "has_more": True}), 10_000, LIST)
            answer = await found.post(await found.input())
            assert answer.status_code == 200, answer.text
            assert [answer.json()["id"]] == list(found.fake.batches)


class TestAnUploadWithoutAnId:
    @pytest.mark.parametrize("body", [{}, b"<html>", {"id": None}, {"id": "batch_1", "object": "batch"}], ids=repr)
    async def test_is_told_not_to_be_repeated(self, tmp_path: Path, body: Any) -> None:
        async with scene(tmp_path) as found:
            found.fake.fault(Answer(200, body, acts=True), where=UPLOAD)
            form = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", INPUT)}}
            answer = await found.door.rest.post("/v1/files", **form)  # type: ignore[arg-type]
            refusal(answer, 503)
            assert answer.headers["x-should-retry"] == "false"
            assert (await found.door.rest.get("/v1/files")).json()["data"] == []


class TestAList:
    @pytest.mark.parametrize(
        "odd",
        [
            *("2024-01-01T00:00:00Z", 1.5e9, 1_700_000_000_000, None, 10**30, "soon", {"a": 1}, True),
        ],
        ids=repr,
    )
    async def test_of_odd_times_shows_what_was_lost(self, tmp_path: Path, odd: Any) -> None:
        def change(told: Any) -> Any:
            return {**told, "data": [{**entry, "created_at": odd} for entry in told["data"]]}

        async with scene(tmp_path, quirks=STUCK) as found:
            file_id = await found.input()
            for fault in (Reset(acts=False), Reset(acts=True)):
                found.fake.fault(fault, where=CREATE)
                found.fake.fault(Changed(change), times=3, where=LIST)
                answer = await found.post(file_id)
                if fault.acts:
                    assert [answer.json()["id"]] == list(found.fake.batches)
                else:
                    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")

    @pytest.mark.parametrize(
        "body", [{}, {"data": {}}, {"data": "x"}, b"<html>", {"object": "batch", "id": "x"}], ids=repr
    )
    async def test_that_is_none_is_no_sign_that_nothing_was_made(self, tmp_path: Path, body: Any) -> None:
        late = [0.0]
        async with scene(tmp_path, quirks=STUCK, clock=lambda: time() + late[0]) as found:
            file_id = await found.input()
            found.fake.fault(Reset(acts=True), where=CREATE)
            found.fake.fault(Answer(200, body), times=10_000, where=LIST)
            assert (await found.post(file_id)).status_code == 503
            late[0] = DOUBT_SECONDS + 1
            looks = found.calls(LIST)
            await until(count_of(found, LIST), lambda count: count > looks + 6, PATIENCE)
            assert found.intents() == 1
            found.fake.faults.clear()
            (batch,) = await until(found.listed, lambda listed: len(listed) == 1, PATIENCE)
            assert [batch["id"]] == list(found.fake.batches)

    @pytest.mark.parametrize(
        "answer", [Answer(404), Answer(405), Answer(501), Answer(200, {}), Answer(200, b"x")], ids=repr
    )
    async def test_that_is_not_there_keeps_no_batch_from_its_end(self, tmp_path: Path, answer: Answer) -> None:
        async with scene(tmp_path) as found:
            found.fake.fault(answer, times=10_000, where=LIST)
            batch_id = (await found.post(await found.input())).json()["id"]
            calls = found.calls(GET)
            await until(count_of(found, GET), lambda count: count > calls + 2, PATIENCE)
            assert (await found.door.ended(batch_id))["status"] == "completed"

    async def test_that_says_for_ever_that_more_follow_is_no_sign_that_nothing_was_made(self, tmp_path: Path) -> None:
        late = [0.0]
        async with scene(tmp_path, clock=lambda: time() + late[0]) as found:
            file_id = await found.input()
            await found.post(file_id)
            page = {"data": [{"id": "batch_other", "created_at": 2 * int(time())}], "has_more": True}
            found.fake.fault(Reset(), where=CREATE)
            found.fake.fault(Answer(200, page), times=10_000, where=LIST)
            assert (await found.post(file_id)).status_code == 503
            late[0] = DOUBT_SECONDS + 1
            looks = found.calls(LIST)
            await until(count_of(found, LIST), lambda count: count > looks + 6, PATIENCE)
            assert found.intents() == 1

    async def test_with_one_odd_entry_shows_its_neighbours(self, tmp_path: Path) -> None:
        odd: dict[str, Any] = {
            "id": None,
            "created_at": "x",
            "status": 5,
            "request_counts": "x",
            "usage": [],
            "metadata": 5,
            "errors": 1,
        }
        more: list[Any] = [odd, None, 7, [], "x", {**odd, "id": 10**400}, {**odd, "id": "batch_odd", "deep": [[[[]]]]}]

        def change(told: Any) -> Any:
            return {**told, "data": [*more, *told["data"], *more]}

        async with scene(tmp_path) as found:
            found.fake.fault(Changed(change), times=10_000, where=LIST)
            found.fake.fault(Answer(500), times=10_000, where=GET)
            ids = [(await found.post(await found.input())).json()["id"] for _ in range(2)]
            for batch_id in ids:
                assert (await found.door.ended(batch_id))["status"] == "completed"


class TestABatchOfOddMembers:
    @pytest.mark.parametrize("odd", ["x", None, 10**400, 1 << 63, -1, [], {}, float("nan")], ids=repr)
    async def test_comes_to_its_end_can_be_read_and_cancelled(self, tmp_path: Path, odd: Any) -> None:
        def change(told: Any) -> Any:
            for one in told.get("data", [told]):
                names = one.keys() - {"id", "object", "status", "metadata", "output_file_id", "input_file_id"}
                one.update(dict.fromkeys(names, odd), unknown=odd)
            return told

        async with scene(tmp_path, quirks=STUCK) as found:
            for where in (CREATE, GET, LIST, CANCEL):
                found.fake.fault(Changed(change), times=10_000, where=where)
            file_id = await found.input()
            ids = [(await found.post(file_id)).json()["id"] for _ in range(2)]
            assert (await found.door.rest.post(f"/v1/batches/{ids[0]}/cancel")).json()["status"] == "cancelling"
            for batch_id in ids:
                found.fake.run(batch_id)
            ended = [(await found.door.ended(batch_id))["status"] for batch_id in ids]
            assert ended == ["cancelled", "completed"]

    async def test_that_is_in_an_unknown_state_can_be_cancelled(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=STUCK) as found:
            batch_id = (await found.post(await found.input())).json()["id"]
            found.fake.batches[batch_id]["status"] = "paused by " + "x" * 300
            await until(lambda: batch_at(found, batch_id), lambda batch: "paused" in batch["status"], PATIENCE)
            found.fake.fault(Changed(lambda _: {}), where=CANCEL)
            cancelled = await found.door.rest.post(f"/v1/batches/{batch_id}/cancel")
            assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelling")


class TestResults:
    async def test_that_are_counted_before_they_are_named_are_waited_for(self, tmp_path: Path) -> None:
        early: list[str] = []

        def change(told: Any) -> Any:
            for one in told.get("data", [told]):
                if one["status"] == "completed" and len(early) < 6:
                    early.append(one["id"])
                    one["output_file_id"] = None
            return told

        async with scene(tmp_path) as found:
            for where in (LIST, GET):
                found.fake.fault(Changed(change), times=10_000, where=where)
            batch = await found.door.ended((await found.post(await found.input())).json()["id"])
            assert len(early) == 6
            assert len(await found.door.grpc.results(batch["output_file_id"])) == 3

    async def test_that_are_never_named_keep_no_batch_from_its_end(self, tmp_path: Path) -> None:
        def change(told: Any) -> Any:
            for one in told.get("data", [told]):
                one.update(output_file_id=None, completed_at=one["completed_at"] and one["completed_at"] - 100)
            return told

        async with scene(tmp_path) as found:
            for where in (LIST, GET):
                found.fake.fault(Changed(change), times=10_000, where=where)
            batch = await found.door.ended((await found.post(await found.input())).json()["id"])
            assert (batch["output_file_id"], batch["request_counts"]["completed"]) == (None, 3)

    @pytest.mark.parametrize("size", [None, "1 KB"])
    async def test_of_lines_that_failed_are_kept_whatever_size_they_are_said_to_have(
        self, tmp_path: Path, size: Any
    ) -> None:
        lines = chat_lines(3)
        lines[1]["body"]["fail"] = 400
        async with scene(tmp_path, "azure") as found:
            file_id = (await found.door.upload(jsonl(lines)))["id"]
            found.fake.fault(changed(bytes=size, status="processed"), times=10_000, where=GET_FILE)
            batch = await found.door.ended((await found.post(file_id)).json()["id"])
            assert len(await found.door.grpc.results(batch["error_file_id"])) == 1


class TestAFileThatStaysUploaded:
    async def test_is_a_batchs_input_all_the_same(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=Quirks(pending_reads=10**9)) as found:
            file_id = await found.input()
            asked = found.calls(GET_FILE)
            answer = await found.post(file_id)
            assert answer.status_code == 200, answer.text
            assert found.calls(GET_FILE) == asked

    async def test_is_waited_for_at_azure(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", Quirks(pending_reads=3)) as found:
            assert (await found.post(await found.input())).status_code == 200
            assert found.calls(GET_FILE) == 3


def doubts(found: Scene) -> Callable[[], Any]:
    async def look() -> int:
        return found.intents()

    return look


def count_of(found: Scene, where: Callable[..., bool]) -> Callable[[], Any]:
    async def look() -> int:
        return found.calls(where)

    return look
