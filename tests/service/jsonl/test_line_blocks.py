from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from batchyard.service.jsonl.line_blocks import whole_lines


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n", b"d\ne", b""]), max_size=12))
async def test_blocks_are_whole_lines_and_together_everything(pieces: list[bytes]) -> None:
    blocks = [block async for block in whole_lines(pieces_of(*pieces))]
    assert b"".join(blocks) == b"".join(pieces)
    assert all(block.endswith(b"\n") for block in blocks[:-1])


async def test_a_line_that_is_too_long_is_left_out() -> None:
    pieces = [b"one\ntwo", b"2" * 5, b"2\nthree\nfour", b"4" * 9]
    assert b"".join([block async for block in whole_lines(pieces_of(*pieces), longest=7)]) == b"one\nthree\n"
