"""Downloads share what they may hold: the more are open, the smaller their pieces are."""

from contextlib import ExitStack

import pytest

from batchyard.service.access.downloads import DOWNLOAD_BYTES, LEAST_PIECE, MOST_PIECE, DownloadShares


def test_a_single_download_has_the_largest_pieces() -> None:
    with DownloadShares().opened() as piece_bytes:
        assert piece_bytes() == MOST_PIECE == 256 << 10


@pytest.mark.parametrize("count", [2, 15, 16, 17, 32, 33, 100, 255, 256])
def test_one_piece_of_each_fits_what_all_may_hold(count: int) -> None:
    shares = DownloadShares()
    with ExitStack() as stack:
        sizes = [stack.enter_context(shares.opened()) for _ in range(count)]
        pieces = [size() for size in sizes]
        assert set(pieces) == {pieces[0]}
        assert sum(pieces) <= DOWNLOAD_BYTES < 2 * sum(pieces) or pieces[0] == MOST_PIECE


def test_no_piece_is_smaller_than_16_kib_however_many_are_open() -> None:
    shares = DownloadShares()
    with ExitStack() as stack:
        for _ in range(5000):
            piece_bytes = stack.enter_context(shares.opened())
        assert piece_bytes() == LEAST_PIECE == 16 << 10


def test_pieces_grow_again_when_others_end() -> None:
    shares = DownloadShares()
    with shares.opened() as piece_bytes:
        with ExitStack() as others:
            for _ in range(300):
                others.enter_context(shares.opened())
            assert piece_bytes() == LEAST_PIECE
        assert piece_bytes() == MOST_PIECE
