"""Where values stand, against a parser that reads the whole line."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.service.jsonl.lines import NAMES, OBJECTS

from batchyard.service.jsonl.json_spans import Edit, edited, span, string_span

PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(tuple)
SMALL = [("model",), ("body", "model"), ("response", "body", "model"), ("response", "url"), ("id",)]
MISSING = object()


def at(line: bytes, path: tuple[str, ...]) -> Any:
    found = json.loads(line)
    for name in path:
        if not isinstance(found, dict) or name not in found:
            return MISSING
        found = found[name]
    return found


def test_the_value_of_a_member_is_found() -> None:
    line = b' {"a": {"b" : "x", "c":[1, {"b": 2}]} , "b": -1.5}\r'
    found = {path: span(line, path) for path in [("a", "b"), ("a", "c"), ("b",), ("a", "b", "c"), ("c",)]}
    assert {path: place and line[slice(*place)] for path, place in found.items()} == {
        ("a", "b"): b'"x"',
        ("a", "c"): b'[1, {"b": 2}]',
        ("b",): b"-1.5",
        ("a", "b", "c"): None,
        ("c",): None,
    }


@settings(deadline=None)
@given(line=OBJECTS, path=PATHS)
@example(line=b'{"body":{"model":1},"body":{}}', path=("body", "model"))
@example(line=b'{"model":{"a":1},"mod\\u0065l":{"a":2}}', path=("model", "a"))
def test_what_stands_there_is_what_a_parser_finds(line: bytes, path: tuple[str, ...]) -> None:
    place, value = span(line, path), at(line, path)
    assert (place is None) == (value is MISSING)
    if place:
        assert json.loads(line[slice(*place)]) == value
        assert at(edited(line, [Edit(*place, b'"replaced"')]), path) == "replaced"


@settings(deadline=None)
@given(line=OBJECTS, path=st.sampled_from(SMALL))
@example(line=b'{"model":"a","mod\\u0065l":"b"}', path=("model",))
@example(line=b'{"a":"model","model":"b"}', path=("model",))
def test_a_string_that_was_read_is_found_at_the_same_place(line: bytes, path: tuple[str, ...]) -> None:
    if isinstance(at(line, path), str):
        assert string_span(line, path) == span(line, path)


@pytest.mark.parametrize("pair", [b"[]", b'{"":}'])
def test_deep_nesting_needs_no_stack(pair: bytes) -> None:
    deep = pair[:-1] * 100_000 + b"0" + pair[-1:] * 100_000
    line = b'{"deep":%s,"model":"m"}' % deep
    place = span(line, ("model",))
    assert place == (len(line) - 4, len(line) - 1)


def test_long_strings_of_escapes_need_no_stack() -> None:
    line = b'{"text":"%s","model":"m"}' % (rb"\"\\" * 500_000)
    assert span(line, ("model",)) == (len(line) - 4, len(line) - 1)


def test_edits_may_come_in_any_order() -> None:
    assert edited(b"0123456789", [Edit(5, 7, b"long"), Edit(0, 1, b""), Edit(9, 9, b"|")]) == b"1234long78|9"
