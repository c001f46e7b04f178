"""How lines are run against an endpoint, over real HTTP: what is kept, and what never leaves."""

import gzip
import json
import logging
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from tests.fakes import Gate, completion, failure, fake_endpoint
from tests.harness import chat_lines, jsonl, service, settings_for, until
from tests.service.running import CHAT, answering, outcome_of, runner

from batchyard.service.config.settings import LocalSettings
from batchyard.service.jsonl.results import TIMEOUT, Answer, Failure, Tokens


class TestAnAnswer:
    async def test_keeps_status_body_request_id_and_tokens(self) -> None:
        async def behaviour(body: dict[str, Any], before: int) -> Response:
            return completion(body, headers={"x-request-id": "req_upstream"})

        async with fake_endpoint(behaviour) as fake, runner(fake.api_base) as run:
            outcome = await run()
            assert isinstance(outcome, Answer)
            assert (outcome.status_code, outcome.request_id) == (200, "req_upstream")
            assert outcome.tokens == Tokens(input=3, cached=1, output=2, reasoning=1)
            assert [path for path, _ in fake.requests] == [CHAT]

    async def test_has_a_request_id_of_azures_or_ours(self) -> None:
        azures = await outcome_of(b"{}", apim_request_id="abc")
        ours = await outcome_of(b"{}")
        assert isinstance(azures, Answer)
        assert azures.request_id == "abc"
        assert isinstance(ours, Answer)
        assert ours.request_id.startswith("req_")

    async def test_that_is_pretty_printed_becomes_one_line_with_every_digit(self) -> None:
        pretty = (
            b'{\n "a": 1.10000000000000000001,\r\n\t"b": [12345678901234567890123, 1E400, -0.0],\n "c": "\\u00e9\\n"}'
        )
        outcome = await outcome_of(pretty)
        assert isinstance(outcome, Answer)
        assert outcome.body == b'{"a":1.10000000000000000001,"b":[12345678901234567890123,1E400,-0.0],"c":"\\u00e9\\n"}'

    async def test_that_is_compressed_is_read(self) -> None:
        outcome = await outcome_of(gzip.compress(b'{"a": 1}'), content_encoding="gzip")
        assert isinstance(outcome, Answer)
        assert outcome.body == b'{"a":1}'

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"<html>", "expecting value at character 1"),
            (b"", "it is empty"),
            (b'{"a": 1', "expecting ',' delimiter at character 8"),
            (b'{"a": 1} x', "extra data at character 10"),
            (b'"\xff"', "it is not in UTF-8"),
            (b'{"a": NaN}', "NaN is no value of JSON"),
            (b"[" * 50_000 + b"]" * 50_000, "it is nested too deeply"),
        ],
        ids=lambda value: repr(value[:12]),
    )
    async def test_that_is_not_json_is_a_failure_with_the_reason(self, content: bytes, reason: str) -> None:
        message = f"The endpoint's answer can't be used: its body (200) is not JSON: {reason}."
        assert await outcome_of(content) == Failure("invalid_response", message)

    @pytest.mark.parametrize("content", [rb'{"a":"\ud800"}', b'{"a":1,"a":2}', b'{"a":%s}' % (b"9" * 400)])
    async def test_that_the_rfc_permits_is_kept_to_the_byte(self, content: bytes) -> None:
        usage = b',"usage":{"prompt_tokens":3}}'
        outcome = await outcome_of(BOM_UTF8 + b" " + content[:-1] + usage)
        assert isinstance(outcome, Answer)
        assert (outcome.body, outcome.tokens.input) == (content[:-1] + usage, 3)

    async def test_that_redirects_is_a_failure_and_not_followed(self) -> None:
        outcome = await outcome_of(b"{}", 307, location="/v1/elsewhere")
        assert isinstance(outcome, Failure)
        assert outcome.code == "invalid_response"

    @pytest.mark.parametrize("compressed", [False, True])
    async def test_that_is_too_large_is_a_failure(self, compressed: bool) -> None:
        large = json.dumps({"a": "x" * 100_000}).encode()
        plain, packed = answering(large), answering(gzip.compress(large), content_encoding="gzip")
        endpoint = fake_endpoint(packed if compressed else plain)
        async with endpoint as fake, runner(fake.api_base, max_response_bytes=10_000) as run:
            outcome = await run()
        assert outcome == Failure("response_too_large", "The answer is larger than 10000 bytes.")

    async def test_that_says_its_usage_in_another_form_counts_no_tokens(self) -> None:
        for usage in (b'"many"', b'{"prompt_tokens": "3"}', b'{"prompt_tokens": -3}', b"null", b"[]"):
            outcome = await outcome_of(b'{"usage": %s}' % usage)
            assert isinstance(outcome, Answer)
            assert outcome.tokens == Tokens()

    async def test_that_refuses_without_json_is_put_into_openais_envelope(self) -> None:
        outcome = await outcome_of(b"<html>" + b"no" * 1000, 400)
        assert isinstance(outcome, Answer)
        error = json.loads(outcome.body)["error"]
        assert outcome.status_code == 400
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "upstream_error"
        assert error["message"].startswith("<html>nono")
        assert len(error["message"]) == 1000

    async def test_that_refuses_at_length_is_cut_and_keeps_its_code(self) -> None:
        told = {"message": "prompt " * 150_000, "type": "invalid_request_error", "param": "input", "code": "too_long"}
        outcome = await outcome_of(json.dumps({"error": told}).encode() + b" " * 100, 400)
        assert isinstance(outcome, Answer)
        assert len(outcome.body) < 2000
        error = json.loads(outcome.body)["error"]
        assert (outcome.status_code, error | {"message": ""}) == (400, told | {"message": ""})
        assert error["message"].startswith("prompt prompt")
        assert error["message"].endswith("(cut: it had 1050000 characters)")

    @pytest.mark.parametrize("size", [3_000_000, 20_000_000])
    @pytest.mark.parametrize("told", [b'{"error":"%s"}', b'{"detail":[{"input":"%s"}]}', b'["%s"]', b'"%s"', b"%s"])
    async def test_that_refuses_in_any_form_is_cut(self, told: bytes, size: int) -> None:
        outcome = await outcome_of(told % (b"x" * size), 422)
        assert isinstance(outcome, Answer)
        assert (outcome.status_code, len(outcome.body) < 2000) == (422, True)
        assert set(json.loads(outcome.body)["error"]) == {"message", "type", "param", "code"}

    async def test_that_refuses_with_half_a_surrogate_pair_is_cut(self) -> None:
        told = rb'{"error":{"message":"\ud800%s","code":"\udc00"}}' % (b"x" * 9000)
        outcome = await outcome_of(told, 400)
        assert isinstance(outcome, Answer)
        error = json.loads(outcome.body)["error"]
        assert (error["message"][:3], error["code"]) == ("?xx", "?")

    async def test_that_refuses_in_8_kib_is_kept(self) -> None:
        told = json.dumps({"error": {"message": "x" * 8000}}, separators=(",", ":")).encode()
        outcome = await outcome_of(told, 400)
        assert isinstance(outcome, Answer)
        assert outcome.body == told

    async def test_that_refuses_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            await outcome_of(b'{"error":{"message":"you asked: hunter2"}}', 400)
            await outcome_of(b"<html>hunter2", 400)
            await outcome_of(b"<html>hunter2")
        assert "hunter2" not in caplog.text

    async def test_that_refuses_without_a_body_names_the_status(self) -> None:
        outcome = await outcome_of(b"", 404)
        assert isinstance(outcome, Answer)
        assert json.loads(outcome.body)["error"]["message"] == "HTTP status 404"


class TestADeadline:
    async def test_ends_a_line_that_is_not_answered(self) -> None:
        gate = Gate()

        async def slow(body: dict[str, Any], before: int) -> Response:
            await gate.passed()
            return completion(body)

        async with fake_endpoint(slow) as fake, runner(fake.api_base) as run:
            assert await run(seconds=0.2) is TIMEOUT
            gate.open()

    async def test_that_passes_makes_a_line_of_the_error_file(self, tmp_path: Path) -> None:
        gate = Gate()

        async def slow(body: dict[str, Any], before: int) -> Response:
            await gate.passed()
            return completion(body)

        async with fake_endpoint(slow) as fake:
            local = LocalSettings(api_base=fake.api_base, line_timeout_seconds=0.2)
            async with service(settings_for(tmp_path, local=local)) as (_, client):
                batch = await client.run(chat_lines(2))
                errors = await client.results(batch.error_file_id)
            gate.open()
        assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 2)
        assert [(line["response"], line["error"]["code"]) for line in errors] == [(None, "request_timeout")] * 2

    async def test_leaves_the_last_refusal_as_the_answer(self) -> None:
        async def refuse(body: dict[str, Any], before: int) -> Response:
            return failure(500)

        async with fake_endpoint(refuse) as fake, runner(fake.api_base, max_attempts=100) as run:
            outcome = await run(seconds=2)
            assert isinstance(outcome, Answer)
            assert outcome.status_code == 500


class TestTheKey:
    async def test_is_sent_as_a_bearer_and_is_in_no_result_log_or_stored_byte(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = "sk-upstream-secret"

        async def mixed(body: dict[str, Any], before: int) -> Response:
            odd = int(body["messages"][-1]["content"].split()[1]) % 2
            return failure(401) if odd else completion(body)

        async with fake_endpoint(mixed) as fake:
            local = LocalSettings(api_base=fake.api_base, api_key=key)
            with caplog.at_level(logging.DEBUG):
                async with service(settings_for(tmp_path, local=local)) as (_, client):
                    batch = await client.run(chat_lines(6))
                    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 3)
            assert {headers["authorization"] for _, headers in fake.requests} == {f"Bearer {key}"}
        assert key not in caplog.text
        assert key not in repr(local)
        stored = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert stored
        assert not [path for path in stored if key.encode() in path.read_bytes()]

    async def test_is_not_sent_where_there_is_none(self) -> None:
        async with fake_endpoint(answering(b"{}")) as fake, runner(fake.api_base) as run:
            await run()
            assert "authorization" not in fake.requests[0][1]


class TestTheClient:
    async def test_keeps_no_cookies(self) -> None:
        async with fake_endpoint(answering(b"{}", set_cookie="session=abc; Path=/")) as fake:
            async with runner(fake.api_base) as run:
                await run("first")
                await run("second")
            assert not [headers for _, headers in fake.requests if "cookie" in headers]

    async def test_uses_no_proxy_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert isinstance(await outcome_of(b"{}"), Answer)

    async def test_never_has_more_calls_under_way_than_its_bound_over_several_batches(self, tmp_path: Path) -> None:
        gate = Gate()

        async def held(body: dict[str, Any], before: int) -> Response:
            await gate.passed()
            return completion(body)

        async with fake_endpoint(held) as fake:
            local = LocalSettings(api_base=fake.api_base, max_concurrency=4)
            async with service(settings_for(tmp_path, local=local)) as (_, client):
                file = await client.upload(jsonl(chat_lines(20)))
                created = [await client.create(file.id) for _ in range(3)]

                async def at_once() -> int:
                    return fake.at_once

                await until(at_once, lambda calls: calls == 4)
                gate.open()
                ended = [await client.ended(batch.id) for batch in created]
            assert [batch.request_counts.completed for batch in ended] == [20] * 3
            assert fake.most_at_once == 4
