"""Results of a deployment that become the batch's own: whose they are, whether they count, and their bytes."""

import json
from codecs import BOM_UTF8
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.service.jsonl.lines import OBJECTS, SCALARS, joined, spelled

from batchyard.service.domain.records import Kind
from batchyard.service.jsonl.line_index import LineIndex
from batchyard.service.jsonl.result_reader import RESULT_MISSING, ResultReader
from batchyard.service.jsonl.results import EXPIRED, NO_TOKENS, Answer, Failure, Result, Tokens, result

BATCH = "batch_1"
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
RESPONSES_USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
}
OURS = json.loads(result(BATCH, 3, "a", EXPIRED).text)["id"]
CANCELLED_THERE = (
    b'{"id":"batch_req_9","custom_id":"a","response":null,"error":{"code":"batch_cancelled","message":"x"}}'
)


def reader(*custom_ids: str, stopped: Failure | None = None) -> ResultReader:
    """A reader for a shard whose lines are 3, 4, ..."""
    index = LineIndex()
    for line, custom_id in enumerate(custom_ids or ["a"], 3):
        index.add(custom_id, line)
    return ResultReader(BATCH, "group", index, stopped=stopped)


def read(data: bytes, *, succeeded: bool = True, stopped: Failure | None = None) -> Result:
    found = reader(stopped=stopped).read(data, succeeded=succeeded)
    assert found
    return found


def answered(status_code: Any = 200, body: Any = None, **more: Any) -> bytes:
    response = {"status_code": status_code, "request_id": "req_1", "body": body or {"model": "gpt-4o", "usage": USAGE}}
    return json.dumps({"id": "batch_req_9", "custom_id": "a", "response": response, "error": None} | more).encode()


def test_line_of_openai_changes_its_model_alone() -> None:
    data = answered()
    assert read(data + b"\n") == Result(
        3, Kind.COMPLETED, Tokens(10, 4, 7, 2), data.replace(b"gpt-4o", b"group") + b"\n"
    )


def test_line_of_azure_gets_an_id_as_its_first_member() -> None:
    data = b' {"custom_id": "a", "response": {"body": {"model": "gpt-4o"}, "status_code": 200}, "error": null}'
    expected = b' {"id":"%s","custom_id": "a"%s\n' % (OURS.encode(), data[18:].replace(b"gpt-4o", b"group"))
    assert read(data) == Result(3, Kind.COMPLETED, NO_TOKENS, expected)


@pytest.mark.parametrize("other", ["null", "7", '{"id": "x"}'])
def test_an_id_that_is_no_string_is_replaced(other: str) -> None:
    data = answered().replace(b'"batch_req_9"', other.encode())
    expected = answered(id=OURS).replace(b"gpt-4o", b"group")
    assert read(data).text == expected + b"\n"


@pytest.mark.parametrize("body", ["text", [1], {"model": 5}, {"model": None}, {"models": "x"}])
def test_a_body_without_a_model_stays(body: Any) -> None:
    data = answered(body=body)
    assert read(data) == Result(3, Kind.COMPLETED, NO_TOKENS, data + b"\n")


def test_other_members_named_model_stay() -> None:
    body = {"choices": [{"model": "a", "text": '"model": "b"'}], "model": "c", "metadata": {"model": "d"}}
    data = answered(body=body)
    assert read(data).text == answered(body=body | {"model": "group"}) + b"\n"


@pytest.mark.parametrize("usage", [USAGE, RESPONSES_USAGE])
def test_tokens_are_read_from_both_forms_of_usage(usage: dict[str, Any]) -> None:
    assert read(answered(body={"usage": usage})).tokens == Tokens(input=10, cached=4, output=7, reasoning=2)


@pytest.mark.parametrize("usage", ["many", [], None, {"prompt_tokens": "3"}, {"prompt_tokens": 1e300}])
def test_usage_of_no_known_form_counts_nothing(usage: Any) -> None:
    assert read(answered(body={"usage": usage})).tokens == NO_TOKENS


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, Kind.COMPLETED), (0, Kind.COMPLETED), (None, Kind.COMPLETED), ("x", Kind.COMPLETED), (400, Kind.FAILED)],
)
def test_what_stands_in_the_output_file_is_completed_below_400(status: Any, kind: Kind) -> None:
    found = read(answered(status))
    assert (found.kind, found.tokens != NO_TOKENS) == (kind, kind is Kind.COMPLETED)


def test_an_error_without_a_response_is_failed_in_the_output_file_too() -> None:
    assert read(CANCELLED_THERE).kind is Kind.FAILED


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "batch_expired", "message": "x"}, Kind.NOT_RUN),
        ({"code": "batch_cancelled", "message": "x"}, Kind.FAILED),
        ({"code": "request_timeout", "message": "x"}, Kind.FAILED),
        ({"code": ["batch_expired"]}, Kind.FAILED),
        ("batch_expired", Kind.FAILED),
    ],
)
def test_lines_of_the_error_file_failed_or_did_not_run(error: Any, kind: Kind) -> None:
    data = answered(response=None, error=error)
    assert read(data, succeeded=False) == Result(3, kind, NO_TOKENS, data + b"\n")


def test_an_answer_in_the_error_file_is_failed_and_kept() -> None:
    data = answered(400, {"error": {"code": "invalid_value", "message": "x"}})
    for stopped in (None, EXPIRED):
        assert read(data, succeeded=False, stopped=stopped) == Result(3, Kind.FAILED, NO_TOKENS, data + b"\n")


def test_why_we_stopped_takes_the_place_of_the_cancellation_there() -> None:
    assert read(CANCELLED_THERE, succeeded=False, stopped=EXPIRED) == result(BATCH, 3, "a", EXPIRED, ran=False)
    assert read(CANCELLED_THERE, succeeded=False).text == CANCELLED_THERE + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b'["a"]',
        b'{"custom_id":"a"',
        b'{"custom_id":"a","x":NaN}',
        b'{"custom_id":"a","x":"\xff"}',
        pytest.param(b'{"custom_id":"a","x":%s%s}' % (b"[" * 100_000, b"]" * 100_000), id="deep"),
        b'{"id":"a"}',
        b'{"custom_id":["a"]}',
        b'{"custom_id":"b"}',
    ],
)
def test_what_is_no_result_of_a_line_is_dropped(data: bytes) -> None:
    waiting = reader()
    assert (waiting.read(data, succeeded=True), waiting.dropped) == (None, 1)
    assert waiting.read(answered(), succeeded=True)


def test_the_first_result_of_a_line_counts() -> None:
    waiting = reader("b", "a")
    first, second = (waiting.read(answered(status), succeeded=True) for status in (200, 400))
    assert (first and first.line, second, waiting.dropped) == (4, None, 1)


def test_half_a_surrogate_pair_is_no_reason_to_drop_an_answer() -> None:
    data = answered(body={"text": "\ud83d", "model": "gpt-4o", "usage": USAGE})
    assert b"\\ud83d" in data
    assert read(data) == Result(3, Kind.COMPLETED, Tokens(10, 4, 7, 2), data.replace(b"gpt-4o", b"group") + b"\n")


UNREADABLE = [
    (b'{"custom_id":"a","response":{"body":{"x":NaN}}}', "NaN is no value of JSON"),
    (b'{"id":"x","custom_id":"a","x":"\xff"}', "it is not in UTF-8"),
    (b'{"custom_id":"a","response":{"bo', "unterminated string starting at character 30"),
    (b'{"x":{"custom_id":"b"},"custom_id":"a"} {}', "extra data at character 41"),
    (b'{"custom_id":"a","x":%s%s}' % (b"[" * 100_000, b"]" * 100_000), "it is nested too deeply"),
    (rb'{"custom_id":"\u0061","x":tru}', "expecting value at character 27"),
]


@pytest.mark.parametrize(("data", "reason"), UNREADABLE, ids=[reason for _, reason in UNREADABLE])
def test_a_line_says_why_its_result_cannot_be_read(data: bytes, reason: str) -> None:
    waiting = reader()
    assert (waiting.read(data, succeeded=True), waiting.unreadable) == (None, 1)
    message = f"The provider's result for this request can't be read: {reason}."
    for rest in (RESULT_MISSING, EXPIRED):
        assert waiting.failure("a", rest) == Failure("invalid_response", message)


def test_what_cannot_be_read_may_be_any_lines_result() -> None:
    waiting = reader()
    assert waiting.failure("a", RESULT_MISSING) is RESULT_MISSING
    waiting.read(b"<html>", succeeded=True)
    message = "The provider's results have none for this request, and 1 that can't be read."
    assert waiting.failure("a", RESULT_MISSING) == Failure("invalid_response", message)
    assert waiting.failure("a", EXPIRED) is EXPIRED


def test_a_byte_order_mark_is_no_reason_to_drop_an_answer() -> None:
    assert read(BOM_UTF8 + answered()) == read(answered())


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "1e400", "3.0", "null"])
def test_an_odd_number_is_no_reason_to_drop_an_answer(number: str) -> None:
    data = answered().replace(b'"total_tokens": 17', b'"total_tokens": %s, "x": %s' % ((number.encode(),) * 2))
    assert read(data) == Result(3, Kind.COMPLETED, Tokens(10, 4, 7, 2), data.replace(b"gpt-4o", b"group") + b"\n")


def test_a_result_of_our_own_is_read_as_it_was_written() -> None:
    written = result(BATCH, 3, "a", Answer(200, "req_1", json.dumps({"usage": USAGE}).encode(), Tokens(10, 4, 7, 2)))
    assert read(written.text) == written


@st.composite
def results(draw: st.DrawFn) -> bytes:
    """A result with whatever else there may be, whose members may be of other types than they should."""
    strange = SCALARS | OBJECTS
    model = (draw(spelled("model")), draw(spelled("gpt-4o")) if draw(st.booleans()) else draw(strange))
    extra = st.lists(st.tuples(st.sampled_from(["model", "x", "id", "usage"]).flatmap(spelled), strange), max_size=2)
    body = draw(joined([*draw(extra), model, *draw(extra)]))
    response = draw(joined([(b'"body"', body), *draw(extra)]))
    members = [
        (b'"custom_id"', b'"a"'),
        (draw(spelled("response")), response if draw(st.booleans()) else draw(strange)),
    ]
    return draw(joined(draw(st.permutations([*members, *draw(extra)]))))


@settings(deadline=None)
@given(data=results())
@example(data=b'{"custom_id":"a","response":{"body":{"model":"x"}},"response":{}}')
def test_a_parser_reads_the_same_but_for_model_and_id(data: bytes) -> None:
    expected = json.loads(data)
    if not isinstance(expected.get("id"), str):
        expected["id"] = OURS
    response = expected.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = "group"
    text = read(data).text
    assert json.loads(text) == expected
    assert text.count(b"\n") == 1
