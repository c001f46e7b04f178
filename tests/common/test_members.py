"""Members that are not known here: bounded before anything is done with them, and walked without recursion."""

import json
from typing import Any

import pytest
from google.protobuf.message import Message

from batchyard.common import members
from batchyard.common.http.envelope import error
from batchyard.common.jsonmap import JsonError, absorber, merger, parsed, writer
from batchyard.common.members import MOST_BYTES, MOST_DEPTH, MOST_VALUES, MembersError, names_of
from batchyard.v1 import Batch, CreateBatchRequest, ExpiresAfter

DEPTHS = [33, 300, *range(968, 985), 5000]


def nested(depth: int, innermost: Any = 1, name: str = "") -> Any:
    """Arrays inside each other, or objects with one member of that name."""
    value = innermost
    for _ in range(depth):
        value = {name: value} if name else [value]
    return value


def refusal(value: Any, kind: type[Message] = CreateBatchRequest) -> JsonError:
    with pytest.raises(JsonError) as raised:
        merger(kind)(kind(), value, "")
    return raised.value


def test_names_come_from_every_level_outer_ones_first() -> None:
    assert list(names_of({"a": [{"c": 1}, {"d": {"e": 2}}], "b": 3})) == ["a", "b", "c", "d", "e"]


def test_as_many_and_as_deep_as_allowed_is_walked_to_its_end() -> None:
    assert len(list(names_of({str(number): number for number in range(MOST_VALUES)}))) == MOST_VALUES
    assert list(names_of({"a": nested(MOST_DEPTH - 2, {"last": 1})})) == ["a", "last"]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", ["", "k"], ids=["arrays", "objects"])
def test_what_is_nested_too_deeply_is_refused_at_any_depth(depth: int, name: str) -> None:
    with pytest.raises(MembersError) as raised:
        list(names_of({"good": 1, "x": nested(depth, name=name)}))
    assert (raised.value.name, raised.value.problem) == ("x", "nested too deeply. Expected at most 32 levels.")


class Untouched(dict[str, Any]):
    """What nobody may look into."""

    def values(self) -> Any:
        raise AssertionError("it was walked")

    def __iter__(self) -> Any:
        raise AssertionError("it was walked")


@pytest.mark.parametrize("inner", [[0] * MOST_VALUES, {str(number): 0 for number in range(MOST_VALUES)}], ids=type)
def test_too_many_values_are_refused_before_they_are_looked_into(inner: Any) -> None:
    with pytest.raises(MembersError, match="at most 1000 members and elements") as raised:
        list(names_of({"x": inner, "y": Untouched(a=1)}))
    assert raised.value.name == "x"


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_body_with_a_member_that_is_too_deep_is_refused_by_its_name(depth: int) -> None:
    raw = b'{"metadata": {"a[": "\\"]"}, "x": ' + b'{"k":[' * depth + b"1" + b"]}" * depth + b"}"
    with pytest.raises(JsonError) as raised:
        merger(CreateBatchRequest)(CreateBatchRequest(), parsed(raw), "")
    assert (raised.value.param, raised.value.code) == ("x", "invalid_value")
    assert raised.value.message == "Invalid 'x': nested too deeply. Expected at most 32 levels."


@pytest.mark.parametrize("brackets", [1000, 10_000, 1_000_000])
@pytest.mark.parametrize(
    ("head", "param"), [(b"", None), (b'{"x":', "x"), (b'{"metadata":', "metadata"), (b'{"a":1,"\\u0078":{"b":', "x")]
)
def test_a_body_of_open_brackets_is_refused(brackets: int, head: bytes, param: str | None) -> None:
    with pytest.raises(JsonError) as raised:
        parsed(head + b"[" * brackets)
    assert raised.value.param == param


@pytest.mark.parametrize("name", ["provider", "endpoint", "metadata", "output_expires_after"])
def test_a_known_member_that_is_too_deep_is_of_the_wrong_type(name: str) -> None:
    assert (refusal({name: nested(900)}).param, refusal({name: nested(900)}).code) == (name, "invalid_type")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x" * MOST_BYTES, f"too large. Expected at most {MOST_BYTES} bytes"),
        (float("inf"), "a number is out of range."),
        (["\ud800"], "not valid Unicode."),
        ([0] * MOST_VALUES, "at most 1000 members and elements"),
    ],
    ids=str,
)
def test_an_unknown_member_that_can_not_be_passed_on_is_refused_by_its_name(value: Any, words: str) -> None:
    found = refusal({"good": 1, "x": value})
    assert (found.param, found.code) == ("x", "invalid_value")
    assert words in found.message


def test_unknown_members_within_the_bounds_are_passed_on() -> None:
    given = {"x": nested(MOST_DEPTH - 1), "y": ["é"] * 900}
    request = CreateBatchRequest()
    merger(CreateBatchRequest)(request, given, "")
    assert json.loads(request.extra_json) == given


def test_a_message_without_room_for_them_refuses_unknown_members_unseen() -> None:
    assert refusal({"surprise": Untouched(a=1)}, ExpiresAfter).param == "surprise"
    assert refusal({"output_expires_after": {"x": Untouched(a=1)}}).param == "output_expires_after.x"


@pytest.mark.parametrize("depth", DEPTHS)
def test_of_a_provider_what_is_too_deep_is_left_out_and_the_rest_kept(depth: int) -> None:
    batch = Batch()
    absorber(Batch)(batch, {"id": "b", "deep": nested(depth), "infinite": float("inf"), "flat": {"a": [1]}}, "")
    assert (batch.id, json.loads(batch.extra_json)) == ("b", {"flat": {"a": [1]}})
    assert writer(Batch)(batch)["flat"] == {"a": [1]}


def test_of_a_provider_many_values_are_kept() -> None:
    batch = Batch()
    absorber(Batch)(batch, {"many": [[number] for number in range(5000)]}, "")
    assert len(json.loads(batch.extra_json)["many"]) == 5000


def test_an_error_quotes_no_more_than_the_ends_of_a_long_name() -> None:
    name = "a" + "x" * 500_000 + "z"
    found = refusal({"output_expires_after": {name: 1}})
    told = error(400, found.message, param=found.param)
    assert len(told["message"]) <= 1200
    assert len(told["param"]) <= 300
    assert told["message"].startswith("Unknown parameter: 'output_expires_after.axxx")
    assert told["message"].endswith("xxxz'.")


def test_the_deep_member_is_found_by_what_is_inside_it_and_not_in_its_texts() -> None:
    assert members.deep_member(b'{"a": "' + b"[" * 100 + b'", "b": [1], "c": ' + b"[" * 100) == "c"
    assert members.deep_member(b'{"a": [1]}') == ""
    assert members.deep_member(b"[" * 100) == ""
