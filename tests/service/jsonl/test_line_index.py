"""Which lines of a shard have a result."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.service.jsonl.line_index import LineIndex


def filled(lines: range) -> LineIndex:
    index = LineIndex()
    for line in lines:
        index.add(f"request-{line}", line)
    return index


def test_a_line_is_taken_once() -> None:
    index = filled(range(5, 50, 3))
    assert [index.take(name) for name in ("request-8", "request-8", "request-9", "", "\ud800")] == [8, *[None] * 4]
    assert len(index) == 15


@settings(deadline=None)
@given(taken=st.sets(st.integers(1, 3000)))
def test_lines_that_were_not_taken_are_missing(taken: set[int]) -> None:
    index = filled(range(1, 3001, 2))
    for line in taken:
        assert index.take(f"request-{line}") == (line if line % 2 else None)
    assert list(index.missing()) == sorted(set(range(1, 3001, 2)) - taken)


def test_two_lines_of_one_custom_id_are_refused() -> None:
    index = filled(range(1, 4))
    with pytest.raises(ValueError, match="Line 9 has the custom_id of another line"):
        index.add("request-2", 9)
    assert (len(index), index.take("request-2")) == (3, 2)


def test_a_line_takes_little_memory() -> None:
    tracemalloc.start()
    try:
        index = filled(range(1, 100_001))
        assert tracemalloc.get_traced_memory()[0] < 27 * len(index)
    finally:
        tracemalloc.stop()
