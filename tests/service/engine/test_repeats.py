"""Which lines are sent again, and which never are."""

import asyncio
import socket
from typing import Any

import pytest
from starlette.responses import Response
from tests.fakes import Going, completion, failure, fake_endpoint
from tests.service.running import CHAT, RESPONSES, outcome_of, raw_endpoint, runner

from batchyard.service.jsonl.results import Answer, Failure

REFUSALS = [408, 409, 425, 429, 500, 502, 503, 504, 507, 508, 511, *range(520, 528), 529, 530, 561, 598, 599]
FINAL = [400, 401, 403, 404, 413, 422, 501, 505]


class TestARepeat:
    async def test_follows_every_refusal_that_may_pass(self) -> None:
        async def once(body: dict[str, Any], before: int) -> Response:
            return completion(body) if before else failure(int(body["messages"][-1]["content"]))

        async with fake_endpoint(once) as fake, runner(fake.api_base) as run:
            outcomes = await asyncio.gather(*(run(str(status)) for status in REFUSALS))
            assert [outcome.status_code for outcome in outcomes if isinstance(outcome, Answer)] == [200] * len(REFUSALS)
            assert fake.calls == dict.fromkeys(map(str, REFUSALS), 2)

    async def test_is_made_for_stateful_endpoints_too_where_there_was_an_answer(self) -> None:
        async def once(body: dict[str, Any], before: int) -> Response:
            return completion(body) if before else failure(503)

        async with fake_endpoint(once) as fake, runner(fake.api_base) as run:
            outcome = await run(path=RESPONSES)
            assert isinstance(outcome, Answer)
            assert outcome.status_code == 200

    @pytest.mark.parametrize(("told", "calls"), [("true", 2), ("false", 1), ("maybe", 1)])
    async def test_follows_a_refusal_that_says_so(self, told: str, calls: int) -> None:
        async def once(body: dict[str, Any], before: int) -> Response:
            return completion(body) if before else failure(400, headers={"x-should-retry": told})

        async with fake_endpoint(once) as fake, runner(fake.api_base) as run:
            await run()
            assert sum(fake.calls.values()) == calls

    @pytest.mark.parametrize("status", [429, 500, 503])
    async def test_never_follows_a_refusal_that_says_not_to(self, status: int) -> None:
        outcome = await outcome_of(b"{}", status, x_should_retry="false")
        assert isinstance(outcome, Answer)
        assert outcome.status_code == status

    @pytest.mark.parametrize("status", [408, 500, 502, 504, 506, 520, 522, 524, 599])
    async def test_is_not_made_for_stateful_endpoints_where_something_may_have_begun(self, status: int) -> None:
        async def refuse(body: dict[str, Any], before: int) -> Response:
            return failure(status)

        async with fake_endpoint(refuse) as fake, runner(fake.api_base) as run:
            outcome = await run(path=RESPONSES)
            assert isinstance(outcome, Answer)
            assert (outcome.status_code, sum(fake.calls.values())) == (status, 1)

    async def test_ends_with_the_last_answer_after_max_attempts(self) -> None:
        async def never(body: dict[str, Any], before: int) -> Response:
            return failure((500, 502, 504)[before])

        async with fake_endpoint(never) as fake, runner(fake.api_base, max_attempts=3) as run:
            outcome = await run()
            assert isinstance(outcome, Answer)
            assert outcome.status_code == 504
            assert sum(fake.calls.values()) == 3

    async def test_never_follows_a_refusal_for_good(self) -> None:
        async def refuse(body: dict[str, Any], before: int) -> Response:
            return failure(int(body["messages"][-1]["content"]))

        async with fake_endpoint(refuse) as fake, runner(fake.api_base) as run:
            outcomes = await asyncio.gather(*(run(str(status)) for status in FINAL))
            assert [outcome.status_code for outcome in outcomes if isinstance(outcome, Answer)] == FINAL
            assert fake.calls == dict.fromkeys(map(str, FINAL), 1)

    async def test_never_follows_an_exhausted_quota(self) -> None:
        outcome = await outcome_of(b'{"error": {"code": "insufficient_quota"}}', 429)
        assert isinstance(outcome, Answer)
        assert outcome.status_code == 429

    async def test_is_not_made_for_a_line_that_is_not_wanted_any_more(self) -> None:
        async def refuse(body: dict[str, Any], before: int) -> Response:
            return failure(503)

        async with fake_endpoint(refuse) as fake, runner(fake.api_base) as run:
            assert await run(control=Going(lambda: not fake.calls)) is None
            assert sum(fake.calls.values()) == 1


class TestABrokenConnection:
    @pytest.mark.parametrize(("path", "calls"), [(CHAT, 2), (RESPONSES, 1)])
    @pytest.mark.parametrize(
        "answer", [b"", b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"a":'], ids=["no answer", "half an answer"]
    )
    async def test_is_repeated_only_where_nothing_can_have_been_made(
        self, path: str, calls: int, answer: bytes
    ) -> None:
        async with raw_endpoint(answer) as (api_base, heads), runner(api_base) as run:
            outcome = await run(path=path)
            message = "The connection to the endpoint broke before it answered."
            assert outcome == Failure("connection_error", message)
            assert len(heads) == calls

    @pytest.mark.parametrize("path", [CHAT, RESPONSES])
    async def test_that_was_never_made_is_repeated(self, path: str) -> None:
        asked = iter([True, False])  # wanted before the first call, not any more while the repeat waits
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # not listening: refuses
            async with runner(f"http://127.0.0.1:{bound.getsockname()[1]}/v1") as run:
                assert await run(path=path, control=Going(lambda: next(asked, False))) is None

    async def test_with_something_that_does_not_speak_http_is_a_failure(self) -> None:
        async with raw_endpoint(b"SSH-2.0-x\r\n") as (api_base, _), runner(api_base, max_attempts=1) as run:
            outcome = await run()
        reason = "it is no HTTP that can be read (Bad status line: Expected HTTP/, RTSP/ or ICE/)"
        assert outcome == Failure("invalid_response", f"The endpoint's answer can't be used: {reason}.")
