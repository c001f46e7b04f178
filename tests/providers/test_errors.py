"""What goes wrong at a provider reaches callers as the provider said it, over REST and over gRPC."""

import json
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import pytest
from grpc import StatusCode
from tests.harness import refused, until
from tests.rest.conftest import refusal
from tests.statuses import Told, told
from tests.upstream.faults import Answer, Hang, Reset
from tests.upstream.quirks import Quirks

from batchyard.service.upstream.health import FAILURES

from .scene import CONTENT, CREATE, FAKES, INPUT, UPLOAD, Scene, before, scene

RATE = {
    "x-ratelimit-limit-requests": "1000",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-requests": "120ms",
}
MOST_DETAILS = 7680  # bytes; gRPC drops more at random


async def over_grpc(found: Scene, answer: Answer, code: StatusCode) -> Told:
    """What a gRPC caller is told where a creation is answered so."""
    file_id = await found.input()
    found.fake.fault(answer, where=CREATE)
    async with refused(code) as errors:
        await found.door.grpc.create(file_id)
    return told(errors[0])


async def over_rest(found: Scene, answer: Answer) -> Any:
    file_id = await found.input()
    found.fake.fault(answer, where=CREATE)
    return await found.post(file_id)


class TestAnError:
    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (400, StatusCode.INVALID_ARGUMENT),
            (402, StatusCode.FAILED_PRECONDITION),
            (404, StatusCode.NOT_FOUND),
            (409, StatusCode.FAILED_PRECONDITION),
            (410, StatusCode.NOT_FOUND),
            (413, StatusCode.INVALID_ARGUMENT),
            (415, StatusCode.INVALID_ARGUMENT),
            (418, StatusCode.FAILED_PRECONDITION),
            (422, StatusCode.INVALID_ARGUMENT),
            (429, StatusCode.RESOURCE_EXHAUSTED),
            (501, StatusCode.UNIMPLEMENTED),
            (503, StatusCode.UNAVAILABLE),
            (507, StatusCode.UNKNOWN),
            (529, StatusCode.UNAVAILABLE),
        ],
    )
    async def test_keeps_its_status_members_and_headers(self, tmp_path: Path, status: int, code: StatusCode) -> None:
        members = {"message": f"It's {status}.", "type": "its_type", "param": "its.param", "code": "its_code"}
        answer = Answer(status, {"error": members}, {**RATE, "retry-after": "7", "x-request-id": "req_theirs"})
        async with scene(tmp_path) as found:
            got = await over_rest(found, answer)
            assert refusal(got, status) == members
            assert got.headers["x-request-id"] == "req_theirs"
            assert got.headers["retry-after"] == "7"
            assert RATE.items() <= dict(got.headers).items()
            error = await over_grpc(found, answer, code)
            assert (error.reason, error.message, error.type) == ("UPSTREAM", members["message"], "its_type")
            assert (error.param, error.code) == ("its.param", "its_code")
            upstream = error.upstream
            assert (upstream.http_status, upstream.request_id) == (status, "req_theirs")
            assert (upstream.provider, upstream.deployment) == ("openai", "openai")
            assert {**RATE, "retry-after": "7"}.items() <= dict(upstream.headers).items()

    async def test_that_only_has_a_message_gets_the_other_members(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            error = refusal(await over_rest(found, Answer(400, {"error": {"message": "No."}})), 400)
            assert error == {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}

    @pytest.mark.parametrize(
        "headers",
        [
            {"retry-after": "20"},
            {"retry-after": formatdate(time() + 20, usegmt=True)},
            {"retry-after-ms": "20000"},
            {"retry-after": "20", "retry-after-ms": "19500"},
        ],
    )
    async def test_keeps_every_form_of_retry_after(self, tmp_path: Path, headers: dict[str, str]) -> None:
        async with scene(tmp_path) as found:
            got = await over_rest(found, Answer(429, {"error": {"message": "Later."}}, headers))
            refusal(got, 429)
            assert {name: got.headers.get(name) for name in headers} == headers

    async def test_keeps_members_that_nobody_knows(self, tmp_path: Path) -> None:
        inner = {"code": "ResponsibleAIPolicyViolation", "n": [1, None, {"a": True}]}
        members = {"code": "contentFilter", "message": "No.", "innererror": inner, "target": "body"}
        async with scene(tmp_path, "azure") as found:
            got = await over_rest(found, Answer(400, {"error": members}))
            assert got.status_code == 400
            assert got.json()["error"] == {**members, "type": "invalid_request_error", "param": None}

    @pytest.mark.parametrize("body", [b"", b"<html>Bad</html>", b"[]", b"{", b"\xff"])
    async def test_that_is_not_as_it_should_be_is_one_all_the_same(self, tmp_path: Path, body: bytes) -> None:
        async with scene(tmp_path) as found:
            error = refusal(await over_rest(found, Answer(400, body, {"content-type": "text/html"})), 400)
            assert error["message"] == "The provider answered with HTTP status 400."
            assert error["type"] == "invalid_request_error"

    @pytest.mark.parametrize(
        "body", [{"error": "Too hot."}, {"detail": "Too hot."}, b"Too hot.", {"message": "Too hot."}]
    )
    async def test_in_another_form_keeps_its_words(self, tmp_path: Path, body: Any) -> None:
        async with scene(tmp_path) as found:
            assert refusal(await over_rest(found, Answer(422, body)), 422)["message"] == "Too hot."
            assert (await over_grpc(found, Answer(422, body), StatusCode.INVALID_ARGUMENT)).message == "Too hot."

    @pytest.mark.parametrize("member", ["9" * 400, "9" * 5000, "1e309", "NaN", '"\\ud800"', "[" * 900 + "]" * 900])
    async def test_with_a_member_that_nothing_holds_is_one_all_the_same(self, tmp_path: Path, member: str) -> None:
        body = b'{"error": {"message": "No.", "code": %b, "more": {"x": %b}}}' % ((member.encode(),) * 2)
        async with scene(tmp_path) as found:
            got = await over_rest(found, Answer(400, body))
            assert (got.status_code, got.json()["error"]["message"]) == (400, "No.")

    async def test_that_shows_our_key_is_shown_without_it(self, tmp_path: Path) -> None:
        page = b"DEBUG: Authorization was Bearer sk-upstream"
        async with scene(tmp_path) as found:
            message = refusal(await over_rest(found, Answer(500, page)), 500)["message"]
            assert message == "DEBUG: Authorization was Bearer [hidden]"

    async def test_that_is_huge_fits_what_grpc_carries(self, tmp_path: Path) -> None:
        members = {name: f"{name}: " + "x€" * 50_000 for name in ("message", "type", "param", "code", "more")}
        headers = {f"x-ratelimit-{number}-{'y' * 100}": "z" * 200 for number in range(40)}
        answer = Answer(400, {"error": members}, {**headers, "retry-after": "7", "x-request-id": "r" * 128})
        async with scene(tmp_path) as found:
            error = await over_grpc(found, answer, StatusCode.INVALID_ARGUMENT)
            assert error.size <= MOST_DETAILS
            assert error.message.startswith("message: x")
            assert error.upstream.headers["retry-after"] == "7"
            assert error.upstream.request_id == "r" * 128
            assert refusal(await over_rest(found, answer), 400)["message"] == error.message

    async def test_that_never_ends_is_cut_off(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            got = await over_rest(found, Answer(400, b"x" * (17 << 20)))
            refusal(got, 503)
            assert got.headers["x-should-retry"] == "false"


class TestOurKey:
    @pytest.mark.parametrize("status", [401, 403])
    async def test_that_is_refused_is_not_the_callers(self, tmp_path: Path, status: int) -> None:
        secret = {"error": {"message": "Incorrect API key provided: sk-upstr***", "code": "invalid_api_key", "x": 1}}
        async with scene(tmp_path) as found:
            got = await over_rest(found, Answer(status, secret, {"x-request-id": "req_theirs"}))
            error = refusal(got, 502)
            assert (error["type"], error["code"]) == ("server_error", None)
            assert "sk-" not in got.text
            assert got.headers["x-request-id"] == "req_theirs"
            reported = await over_grpc(found, Answer(status, secret), StatusCode.FAILED_PRECONDITION)
            assert (reported.reason, reported.upstream.http_status) == ("PROVIDER_AUTH", status)
            assert found.intents() == 0

    @pytest.mark.parametrize("old", [False, True])
    async def test_that_azure_refuses_is_not_the_callers(self, tmp_path: Path, old: bool) -> None:
        async with scene(tmp_path, "azure", Quirks(old_errors=old)) as found:
            file_id = await found.input()
            found.fake.key = "another"
            for answer in (await found.post(file_id), await found.door.rest.get(f"/v1/files/{file_id}/content")):
                assert "subscription" not in json.dumps(refusal(answer, 502))


class TestAzuresWords:
    @pytest.mark.parametrize(
        ("status", "given", "code", "kind"),
        [
            (404, "404", None, "invalid_request_error"),
            (429, "429", "rate_limit_exceeded", "requests"),
            (429, "tooManyRequests", "rate_limit_exceeded", "requests"),
            (500, "500", None, "server_error"),
            (404, "notFound", None, "invalid_request_error"),
            (409, "conflict", None, "invalid_request_error"),
            (404, "DeploymentNotFound", "model_not_found", "invalid_request_error"),
            (400, "token_limit_exceeded", "token_limit_exceeded", "invalid_request_error"),
            (400, "jsonlValidationFailed", "jsonlValidationFailed", "invalid_request_error"),
            (400, "quotaExceeded", "quotaExceeded", "invalid_request_error"),
            (400, None, None, "invalid_request_error"),
        ],
    )
    async def test_for_errors_become_openais(
        self, tmp_path: Path, status: int, given: str | None, code: str | None, kind: str
    ) -> None:
        async with scene(tmp_path, "azure") as found:
            error = refusal(
                await over_rest(found, Answer(status, {"error": {"code": given, "message": "No."}})), status
            )
            assert error == {"message": "No.", "type": kind, "param": None, "code": code}

    async def test_are_translated_as_they_really_come(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as found:
            got = await over_rest(found, Answer(429))
            assert refusal(got, 429)["code"] == "rate_limit_exceeded"
            assert (got.headers["retry-after"], got.headers["retry-after-ms"]) == ("37", "37000")

    async def test_are_left_alone_at_openai(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            error = refusal(await over_rest(found, Answer(404, {"error": {"code": "404", "message": "No."}})), 404)
            assert error["code"] == "404"

    async def test_are_read_without_an_envelope(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as found:
            error = refusal(await over_rest(found, Answer(400, {"statusCode": 400, "message": "Old."})), 400)
            assert error == {"message": "Old.", "type": "invalid_request_error", "param": None, "code": None}


class TestTryingAgain:
    @pytest.mark.parametrize(
        "fault", [Answer(500), Answer(503), Answer(520), Answer(429, headers={"retry-after": "0"}), Reset()]
    )
    async def test_a_read_is(self, tmp_path: Path, fault: Answer | Reset) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(fault, times=2, where=CONTENT)
            assert (await found.door.rest.get(f"/v1/files/{file_id}/content")).content == INPUT
            assert found.calls(CONTENT) == 3

    async def test_a_read_is_only_so_often(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Answer(500), times=3, where=CONTENT)
            refusal(await found.door.rest.get(f"/v1/files/{file_id}/content"), 500)
            assert found.calls(CONTENT) == 3

    @pytest.mark.parametrize(
        "answer",
        [Answer(400), Answer(429), Answer(429, {"error": {"message": "Broke.", "code": "insufficient_quota"}})],
    )
    async def test_a_read_that_can_not_help_is_not(self, tmp_path: Path, answer: Answer) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(answer, where=CONTENT)
            refusal(await found.door.rest.get(f"/v1/files/{file_id}/content"), answer.status)
            assert found.calls(CONTENT) == 1

    @pytest.mark.parametrize("fault", [Answer(500, acts=True), Answer(503), Answer(429), Reset(), Reset(acts=True)])
    async def test_an_upload_is_not(self, tmp_path: Path, fault: Answer | Reset) -> None:
        async with scene(tmp_path) as found:
            found.fake.fault(fault, where=UPLOAD)
            got = await found.door.rest.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", INPUT)})
            refusal(got, fault.status if isinstance(fault, Answer) else 503)
            assert found.calls(UPLOAD) == 1
            assert (await found.door.rest.get("/v1/files")).json()["data"] == []
            if isinstance(fault, Reset):
                assert got.headers["x-should-retry"] == "false"


class TestADeploymentThatFails:
    async def test_is_left_alone_for_a_while(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            path = f"/v1/files/{file_id}/content"
            found.fake.fault(Answer(503), times=FAILURES, where=CONTENT)
            refusal(await found.door.rest.get(path), 503)
            began = time()
            for answer in [await found.door.rest.get(path), await found.door.rest.get(path), await found.post(file_id)]:
                assert "failed repeatedly" in refusal(answer, 503)["message"]
                assert 1 <= int(answer.headers["retry-after"]) <= 5
                assert "x-should-retry" not in answer.headers
            assert time() - began < 3  # it has tried once more before, and nobody has waited for the pause's end
            assert (found.calls(CONTENT), found.calls(CREATE), found.intents()) == (FAILURES, 0, 0)

    async def test_is_tried_again(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Answer(503), times=FAILURES, where=CONTENT)
            path = f"/v1/files/{file_id}/content"
            for _ in range(2):
                refusal(await found.door.rest.get(path), 503)
            assert found.calls(CONTENT) == FAILURES
            answers = await until(lambda: found.door.rest.get(path), lambda answer: answer.status_code == 200, 10)
            assert answers.content == INPUT
            assert found.calls(CONTENT) == FAILURES + 1

    async def test_that_hangs_counts_as_failing(self, tmp_path: Path) -> None:
        async with scene(tmp_path, max_attempts=1, call_seconds=0.05) as found:
            file_id = await found.input()
            found.fake.fault(Hang(), times=FAILURES, where=CONTENT)
            path = f"/v1/files/{file_id}/content"
            for _ in range(FAILURES):
                refusal(await found.door.rest.get(path), 504)
            assert "failed repeatedly" in refusal(await found.door.rest.get(path), 503)["message"]

    async def test_that_is_gone_is_unavailable(self, tmp_path: Path) -> None:
        gone = {"api_base": "http://127.0.0.1:9/v1"}
        async with FAKES["openai"]() as fake, before(fake, tmp_path, deployment=gone) as found:
            got = await found.door.rest.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", INPUT)})
            assert refusal(got, 503)["message"] == "The provider could not be reached."
            assert "x-should-retry" not in got.headers
