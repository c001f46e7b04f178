"""What a deployment answers beside what it should never makes a group run a line twice, or wait for ever."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness import until
from tests.providers.scene import CREATE, GET, GET_FILE, LIST, UPLOAD
from tests.upstream.exchange import Seen
from tests.upstream.faults import Answer, Broken, Changed, Fault, Stalled
from tests.upstream.quirks import Quirks

from batchyard.service.upstream.errors_text import MOST_TEXT, MOST_WORD

from .scene import HELD, Yard, lines_of, scene


def calls(yard: Yard, where: Callable[[Seen], bool]) -> int:
    return sum(sum(map(where, fake.requests)) for fake in yard.fakes)


@pytest.mark.parametrize("ending", ["=", "x" * 260, "/a", " é"])
async def test_ids_of_another_shape_are_used_as_they_are(tmp_path: Path, ending: str) -> None:
    async with scene(tmp_path, "openai", quirks=Quirks(id_ending=ending)) as yard:
        lines = lines_of(4)
        batch = await yard.run(lines)
        assert batch["status"] == "completed"
        await yard.accounted(batch, lines)
        assert (calls(yard, UPLOAD), calls(yard, CREATE), yard.once()) == (1, 1, True)
        await yard.cleaned()


@pytest.mark.parametrize("body", [{}, b"<html>", {"id": None, "status": "validating"}], ids=repr)
async def test_a_creation_that_is_answered_by_nothing_is_looked_for(tmp_path: Path, body: Any) -> None:
    async with scene(tmp_path) as yard:
        for fake in yard.fakes:
            fake.fault(Answer(200, body, acts=True), where=CREATE)
        lines = lines_of(4)
        batch = await yard.run(lines)
        await yard.accounted(batch, lines)
        assert (batch["status"], calls(yard, CREATE), yard.once()) == ("completed", 1, True)


@pytest.mark.parametrize("no_list", [Answer(200, {"data": []}), Answer(404)], ids=["an empty list", "no list"])
@pytest.mark.parametrize(
    "answer", [Answer(200, {}, acts=True), Answer(200, b"<html>", acts=True), Broken(10), Stalled(10)], ids=repr
)
async def test_a_creation_that_is_not_to_be_found_ends_its_lines(
    tmp_path: Path, answer: Fault, no_list: Answer
) -> None:
    async with scene(tmp_path, doubt_seconds=0.5, call_seconds=1.0) as yard:
        for fake in yard.fakes:
            fake.fault(answer, times=1000, where=CREATE)
            fake.fault(no_list, times=100_000, where=LIST)
        lines = lines_of(4)
        batch = await yard.run(lines)
        output, errors = await yard.accounted(batch, lines)
        assert (output, {line["error"]["code"] for line in errors}) == ([], {"invalid_response"})
        assert (calls(yard, CREATE), yard.once()) == (1, True)


@pytest.mark.parametrize("body", [{}, b"<html>", {"id": [], "object": "file"}], ids=repr)
async def test_an_upload_that_is_answered_by_nothing_is_not_repeated(tmp_path: Path, body: Any) -> None:
    async with scene(tmp_path) as yard:
        for fake in yard.fakes:
            fake.fault(Answer(200, body, acts=True), times=1000, where=UPLOAD)
        lines = lines_of(4)
        batch = await yard.run(lines)
        _, errors = await yard.accounted(batch, lines)
        assert {line["error"]["code"] for line in errors} == {"no_deployment"}
        assert calls(yard, UPLOAD) == len(yard.fakes)


async def test_files_that_stay_uploaded_are_inputs_all_the_same(tmp_path: Path) -> None:
    async with scene(tmp_path, "openai", quirks=Quirks(pending_reads=10**9)) as yard:
        lines = lines_of(4)
        batch = await yard.run(lines)
        await yard.accounted(batch, lines)
        assert (batch["status"], calls(yard, CREATE)) == ("completed", 1)
        inputs = {name for name, file in yard.fakes[0].files.items() if file.description["purpose"] == "batch"}
        assert not [seen for seen in yard.fakes[0].requests if GET_FILE(seen) and seen.path.split("/")[-1] in inputs]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, {"error": {"message": "Later.", "code": 10**400}}, {"retry-after-ms": "1e309"}),
        Answer(429, headers={"retry-after": "9" * 400}),
        Answer(429, headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}),
        Answer(400, {"error": {"message": f"Enqueued token limit of {'9' * 400}", "code": "token_limit_exceeded"}}),
    ],
    ids=["code", "seconds", "date", "limit"],
)
async def test_numbers_that_nothing_holds_leave_a_batch_that_can_be_cancelled(tmp_path: Path, answer: Answer) -> None:
    async with scene(tmp_path, "openai") as yard:
        yard.fakes[0].fault(answer, times=100_000, where=CREATE)
        batch_id = await yard.create(lines_of(2))
        await yard.fakes[0].arrival(CREATE)
        await until(lambda: yard.get(batch_id), lambda batch: batch["status"] in {"validating", "in_progress"})
        assert (await yard.door.rest.get("/health")).status_code < 500
        assert (await yard.door.rest.post(f"/v1/batches/{batch_id}/cancel")).status_code == 200
        assert (await yard.door.ended(batch_id))["status"] == "cancelled"


@pytest.mark.parametrize("where", [UPLOAD, CREATE], ids=["upload", "create"])
@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_providers_words_are_told_to_callers_and_kept_out_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: Callable[[Seen], bool], status: int
) -> None:
    caplog.set_level("DEBUG")
    quoting = Answer(status, {"error": {"message": "I refuse: my secret prompt", "code": "refused: my secret prompt"}})
    async with scene(tmp_path, "openai", doubt_seconds=0.5) as yard:
        yard.fakes[0].fault(quoting, times=3, where=where)
        await yard.run(lines_of(2))
    assert caplog.records
    assert not [record for record in caplog.records if "secret" in f"{record.getMessage()} {vars(record)}"]


@pytest.mark.parametrize("size", [1 << 20])
async def test_a_long_text_is_cut_in_every_lines_error(tmp_path: Path, size: int) -> None:
    async with scene(tmp_path, "openai") as yard:
        yard.fakes[0].fault(Answer(400, {"error": {"message": "begin" + "x" * size}}), times=1000, where=CREATE)
        lines = lines_of(20)
        _, errors = await yard.accounted(await yard.run(lines), lines)
        assert len(errors) == 20
        assert all("begin" in line["error"]["message"] for line in errors)
        assert max(len(line["error"]["message"]) for line in errors) < 2 * MOST_TEXT


async def test_a_long_text_of_a_batch_that_fails_is_cut_in_every_lines_error(tmp_path: Path) -> None:
    async with scene(tmp_path, "openai", quirks=HELD) as yard:
        lines = lines_of(20)
        batch_id = await yard.create(lines)
        ((fake, there),) = await yard.live(1)
        fake.fail(there, [{"code": "c" * 10_000, "message": "begin" + "x" * 100_000, "param": None, "line": 1}])
        _, errors = await yard.accounted(await yard.door.ended(batch_id), lines)
        assert max(len(line["error"]["message"]) for line in errors) < 2 * MOST_TEXT
        assert max(len(line["error"]["code"]) for line in errors) <= MOST_WORD


async def test_a_batch_that_failed_with_results_and_without_counts_runs_no_line_again(tmp_path: Path) -> None:
    def change(told: Any) -> Any:
        for one in told.get("data", [told]):
            if one["status"] == "completed":
                one.update(status="failed", request_counts=None, usage=None)
        return told

    async with scene(tmp_path, "openai", "openai") as yard:
        for fake in yard.fakes:
            for where in (LIST, GET):
                fake.fault(Changed(change), times=100_000, where=where)
        lines = lines_of(4)
        output, _ = await yard.accounted(await yard.run(lines), lines)
        assert (len(output), calls(yard, CREATE), yard.once()) == (4, 1, True)
