"""What the downloads that are open hold: each a share of what all may, so that readers who don't read cost little."""

from collections.abc import Iterator
from contextlib import contextmanager

from batchyard.service.objects.base import PIECE_BYTES, PieceBytes

DOWNLOAD_BYTES = 4 << 20
"""Bytes of files that downloads share: those of one piece each. On its way a download holds several pieces."""

LEAST_PIECE, MOST_PIECE = 16 << 10, PIECE_BYTES
"""Bytes of a piece of a file, where many downloads are open and where few are."""


class DownloadShares:
    """Says how large the next piece of a download is, by how many are open in this process.

    Small pieces take more time for each byte, large ones more memory for each download: few downloads get large ones.
    """

    def __init__(self) -> None:
        self._open = 0

    @contextmanager
    def opened(self) -> Iterator[PieceBytes]:
        """Counts a download; gives what says how many bytes its next piece has at most, a power of two."""
        self._open += 1
        try:
            yield self._piece_bytes
        finally:
            self._open -= 1

    def _piece_bytes(self) -> int:
        share = DOWNLOAD_BYTES // max(1, self._open)
        return max(LEAST_PIECE, min(MOST_PIECE, 1 << share.bit_length() - 1))
