"""Lines that hold something, found and counted among any number of blank ones at a few nanoseconds a byte."""

import re
from collections.abc import Callable, Iterator

BLANK = b" \t\r"
"""What a line that holds no request consists of."""
_LINE = re.compile(rb"[^ \t\r\n][^\n]*+")
_BLANKS = re.compile(rb"[ \t\r\n]*+")
_STEP = 256 << 10


def filled_lines(data: bytes, number: int = 1) -> Iterator[tuple[int, bytes]]:
    """The lines of `data` that are not blank, without leading blanks and line ends, each with its number.

    `number` is that of the first line.
    """
    at = 0
    for found in _LINE.finditer(data):
        number += data.count(b"\n", at, found.start())
        at = found.start()
        yield number, found[0]


def change_filled(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Returns `data` with each of its lines that is not blank, from its first byte that is not, as `change` has it."""
    return _LINE.sub(lambda found: change(found[0]), data)


def blank_end(data: bytes, start: int, most: int) -> int:
    """Where the blank lines that begin at `start` end, looking no further than `most` bytes; `start` if there are none.

    What may go on as a line that is not blank, or has not ended, is none of them.
    """
    found = _BLANKS.match(data, start, start + most)
    return data.rfind(b"\n", start, found.end() if found else start) + 1 or start


class LineCounter:
    """Counts lines that are not blank, or longer than `longest` bytes, in bytes that come in pieces.

    What it does for a line costs nothing: it is done for many bytes at once.
    """

    def __init__(self, longest: int) -> None:
        self.count = 0
        self._longest = longest
        self._step = min(_STEP, longest)  # a line that lies within a step is not too long
        self._size = 0
        self._filled = False

    def feed(self, data: bytes) -> None:
        """Takes the next piece."""
        for at in range(0, len(data), self._step):
            self._take(data[at : at + self._step])

    def finish(self) -> None:
        """Ends the last line, which needs no newline."""
        self.count += self._filled or self._size > self._longest
        self._size, self._filled = 0, False

    def _take(self, piece: bytes) -> None:
        first, newline, rest = piece.partition(b"\n")
        self._go_on(first)
        if newline:
            self.finish()
            whole, newline, last = rest.rpartition(b"\n")
            self.count += _filled(whole + newline)
            self._go_on(last)

    def _go_on(self, piece: bytes) -> None:
        self._size += len(piece)
        self._filled = self._filled or bool(piece.translate(None, BLANK))


def _filled(lines: bytes) -> int:
    """How many of these lines, which all have their ends, are not blank."""
    ends = b"\n" + lines.translate(None, BLANK)
    while b"\n\n" in ends:  # a run of blank lines shrinks by half each time
        ends = ends.replace(b"\n\n", b"\n")
    return ends.count(b"\n") - 1
