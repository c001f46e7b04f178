"""Every field of a provider's objects is read by itself: an odd one costs itself, and nothing else."""

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from batchyard.service.api.messages import batch_message
from batchyard.service.domain.records import BatchRecord
from batchyard.service.providers.remote import fields
from batchyard.service.providers.remote.columns import adopted_values, batch_values
from batchyard.service.providers.remote.provider import _record
from batchyard.service.upstream.provider_json import decode

AT = 1_700_000_000
HUGE = 10**400
ODD: list[Any] = [None, True, -1, float("nan"), float("inf"), HUGE, 1 << 63, "many", "9" * 400, [], [1], {}, {"a": 1}]
NO_IDS: list[Any] = [None, True, -1, 1.5, "", "  ", ".", "..", "x" * 2000, "\ud800", [], {}]
NO_WORDS: list[Any] = [None, 5, True, [], {}]
COUNTS = {"total": 5, "completed": 3, "failed": 2}
USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 1},
    "output_tokens": 8,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}


def brief(value: Any) -> str:
    """A value as a test's name."""
    return repr(value)[:30]


BATCH: dict[str, Any] = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "model": "m",
    "errors": {"object": "list", "data": [{"code": "c", "message": "No.", "param": "p", "line": 3}]},
    "input_file_id": "file-1",
    "completion_window": "24h",
    "status": "completed",
    "output_file_id": "file-2",
    "error_file_id": "file-3",
    **dict.fromkeys(fields.TIMES, AT),
    "request_counts": COUNTS,
    "usage": USAGE,
    "metadata": {"a": "b"},
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (AT, AT),
        (float(AT) + 0.9, AT),
        (str(AT), AT),
        (f"{AT}.25", AT),
        (AT * 1000, AT),
        (str(AT * 1000), AT),
        (AT * 1_000_000, AT),
        (AT * 1_000_000_000, AT),
        ("2023-11-14T22:13:20Z", AT),
        ("2023-11-14T22:13:20.1234567+00:00", AT),
        ("2023-11-14T22:13:20", AT),
        ("2023-11-15T00:13:20+02:00", AT),
        ("Tue, 14 Nov 2023 22:13:20 GMT", AT),
        *((value, None) for value in (*ODD, 0, "", "0001-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "soon", 1e30)),
    ],
    ids=brief,
)
def test_a_time_is_read_in_every_form(value: Any, expected: int | None) -> None:
    assert fields.seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), (3.0, 3), ("3", 3), ("3.0", 3), (0, 0), *((value, 0) for value in (*ODD, -3.5, "", "-3"))],
    ids=brief,
)
def test_a_count_is_read_in_every_form(value: Any, expected: int) -> None:
    assert fields.count(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((text, text) for text in ("batch_1", "YmF0Y2g=", "a/b", "a b", "é", "a%2Fb", "?a#b", "x" * 260)),
        (17, "17"),
        *((value, "") for value in NO_IDS),
    ],
    ids=brief,
)
def test_an_id_is_kept_exactly_or_not_at_all(value: Any, expected: str) -> None:
    assert fields.identifier(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("in_progress", "in_progress"),
        ("InProgress", "in_progress"),
        ("in-progress", "in_progress"),
        ("COMPLETED", "completed"),
        ("Canceled", "cancelled"),
        ("paused", "paused"),
        *((value, "") for value in NO_WORDS),
    ],
    ids=str,
)
def test_a_status_is_in_openais_spelling(value: Any, expected: str) -> None:
    assert fields.status(value) == expected


@pytest.mark.parametrize("name", [*COUNTS, *fields.TIMES, "input_tokens", "output_tokens", "cached_tokens"])
def test_one_odd_number_costs_no_other(name: str) -> None:
    usual = batch_values(fields.batch(BATCH), AT)
    for odd in ODD:
        given = json.loads(json.dumps(BATCH))
        for holder in (given, given["request_counts"], given["usage"], given["usage"]["input_tokens_details"]):
            if name in holder:
                holder[name] = odd
        values = batch_values(fields.batch(given), AT)
        assert {key for key in values if values[key] != usual[key]} <= {name, "expires_at", "upstream"}, odd
        assert shown(given)["requestCounts"].keys() | {name} == {*COUNTS, name}, odd


@pytest.mark.parametrize("name", [name for name in BATCH if name != "id"])
def test_one_odd_member_costs_no_other(name: str) -> None:
    first, *more = name.split("_")
    own = {first + "".join(map(str.title, more)), "providerStatus"}
    usual = shown(BATCH)
    for odd in [*ODD, "text", 5, [[[[]]]]]:
        message = shown(BATCH | {name: odd})
        assert {key for key in usual if message.get(key) != usual[key]} <= own, odd


@pytest.mark.parametrize("odd", [HUGE, [HUGE], float("nan"), "\ud800", {"\ud800": 1}, "x" * 100_000], ids=brief)
def test_a_member_that_nobody_knows_is_kept_where_it_can_be(odd: Any) -> None:
    message = shown(BATCH | {"fine": {"deep": [1, None]}, "odd": odd})
    extra = json.loads(json.dumps(message["extra"]))
    assert extra["fine"] == {"deep": [1, None]}


def test_a_member_that_is_too_deep_is_left_out_alone() -> None:
    deep = json.loads("[" * 500 + "]" * 500)
    assert shown(BATCH | {"deep": deep, "fine": [[1]]})["extra"] == {"fine": [[1]]}


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        (
            {"data": [{"message": "One."}, 5, None, "Two.", {"error": {"message": "Three."}}]},
            ["One.", "Two.", "Three."],
        ),
        ([{"message": "One."}], ["One."]),
        ({"message": "One."}, ["One."]),
        ("One.", ["One."]),
        ({"data": []}, []),
    ],
    ids=str,
)
def test_errors_are_read_in_every_form(errors: Any, expected: list[str]) -> None:
    found = fields.batch({"errors": errors})["errors"]
    assert [error["message"] for error in found["data"]] == expected


@pytest.mark.parametrize("line", ["3", 3.0, 3])
def test_an_errors_line_is_a_number(line: Any) -> None:
    assert fields.batch({"errors": [{"message": "No.", "line": line, "code": 7}]})["errors"]["data"] == [
        {"message": "No.", "line": 3, "code": "7"}
    ]


def test_labels_are_texts() -> None:
    given = {"a": "b", "n": 5, "none": None, "list": [1], "huge": HUGE}
    assert fields.metadata(given) == {"a": "b", "n": "5", "list": "[1]", "huge": str(HUGE)}


def test_a_huge_object_fits_a_message() -> None:
    long = "€" * 10_000
    errors = [{"message": long, "code": long, "param": long, "more": long}] * 2_000
    labels = {str(n): long for n in range(500)}
    given = BATCH | {"errors": {"data": errors}, "model": long, "metadata": labels, "x": long, "y": "x" * 100_000}
    message = batch_message(record(given))
    assert 200 < len(message.errors.data) <= 1_000
    assert message.ByteSize() < 3 << 20


@pytest.mark.parametrize("member", ["9" * 400, "9" * 5000, "1e309", "NaN", '"\\ud800"'])
def test_an_answer_is_read_though_a_member_is_none(member: str) -> None:
    assert decode(b'{"id": "batch_1", "x": %b}' % member.encode())["id"] == "batch_1"


def shown(members: dict[str, Any]) -> dict[str, Any]:
    """What callers are shown of a batch of which a provider says this."""
    message = batch_message(record(members))
    extra = json.loads(message.extra_json) if message.extra_json else {}
    return MessageToDict(message) | {"extra": extra}


def record(members: dict[str, Any]) -> BatchRecord:
    """The record of a batch of which a provider says this."""
    ids = {"seq": 1, "id": "batch_1", "tenant": "", "epoch": 0, "estimated_tokens": 0, "estimated_lines": 0}
    return _record(BatchRecord, {**adopted_values(fields.batch(members), "openai", AT), **ids})
