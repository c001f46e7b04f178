"""Lines among any number of blank ones, found and counted as a plain reading finds and counts them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.service.jsonl.filled_lines import LineCounter, blank_end, change_filled, filled_lines

TEXTS = st.lists(st.sampled_from([b"\n", b" ", b"\t", b"\r", b"\r\n", b"\n\n\n", b"a", b"{}", b"\x0b", b"\xff"])).map(
    b"".join
)


def plain(data: bytes) -> list[tuple[int, bytes]]:
    lines = ((number, line.lstrip(b" \t\r")) for number, line in enumerate(data.split(b"\n"), 7))
    return [(number, line) for number, line in lines if line]


@given(data=TEXTS)
def test_filled_lines_are_those_of_a_plain_reading_with_their_numbers(data: bytes) -> None:
    assert list(filled_lines(data, 7)) == plain(data)


@given(data=TEXTS)
def test_changing_filled_lines_leaves_every_other_byte(data: bytes) -> None:
    assert change_filled(data, lambda line: line) == data
    changed = change_filled(data, lambda line: b"<" + line)
    assert changed.count(b"<") == len(plain(data))
    assert changed.replace(b"<", b"") == data


@given(data=TEXTS, cuts=st.lists(st.integers(0, 60)), longest=st.integers(1, 9))
def test_lines_are_counted_however_pieces_are_cut(data: bytes, cuts: list[int], longest: int) -> None:
    counter = LineCounter(longest)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        counter.feed(data[start:end])
    counter.finish()
    assert counter.count == sum(bool(line.strip(b" \t\r")) or len(line) > longest for line in data.split(b"\n"))


@given(data=TEXTS, start=st.integers(0, 60), most=st.integers(0, 60))
def test_blank_lines_end_before_what_may_be_none(data: bytes, start: int, most: int) -> None:
    start = min(start, len(data))
    end = blank_end(data, start, most)
    passed = data[start:end]
    assert start <= end <= min(start + most, len(data))
    assert not passed.strip(b" \t\r\n")
    assert passed == b"" or passed.endswith(b"\n")


@pytest.mark.parametrize("unit", [b"\n", b" \t\r\n", b"1\n", b"\n1\n \n{}\n"])
def test_a_large_piece_is_counted_line_by_line(unit: bytes) -> None:
    counter = LineCounter(1 << 20)
    data = unit * (3_000_000 // len(unit))
    counter.feed(data[:1_500_001])
    counter.feed(data[1_500_001:])
    counter.finish()
    assert counter.count == sum(bool(line.strip(b" \t\r")) for line in data.split(b"\n"))
