"""Checksums of an object's blocks: CRC-32 (zlib's) of each 256 KiB, as one string of four bytes a block, big-endian.

They are kept where the object is named, not in it: whoever reads any part of it knows that these are its bytes.
"""

from isal.isal_zlib import crc32  # zlib's own takes nine times as long

BLOCK = 256 << 10
"""Bytes that share a checksum; an object's last block may have less."""
_SIZE = 4


class Checksums:
    """Of an object that comes piece by piece: `update` with each, in order; `size` is how much that was."""

    def __init__(self) -> None:
        self.size = 0
        self._sums = bytearray()
        self._last = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Appends. Takes the time of reading all of `data`, and leaves the interpreter's lock to others meanwhile."""
        view = memoryview(data)
        at = 0
        while at < len(view):
            piece = view[at : at + BLOCK - self.size % BLOCK]
            self._last = crc32(piece, self._last)
            self.size += len(piece)
            at += len(piece)
            if self.size % BLOCK == 0:
                self._sums += self._last.to_bytes(_SIZE, "big")
                self._last = 0

    def value(self) -> bytes:
        """The checksums of all that came so far, as if it were the whole object."""
        return bytes(self._sums) + (self._last.to_bytes(_SIZE, "big") if self.size % BLOCK else b"")


def is_intact(block: bytes, number: int, sums: bytes) -> bool:
    """Whether a whole block has the checksum that an object's `sums` say of the one of this number, from 0."""
    return sums[number * _SIZE : (number + 1) * _SIZE] == crc32(block).to_bytes(_SIZE, "big")
