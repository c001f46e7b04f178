"""What the command for people writes: its results on stdout, talk and the line that moves on stderr."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO
from unicodedata import combining, east_asian_width

from google.protobuf.message import Message

from batchyard.cli.outputs import Unbuffered
from batchyard.common.jsonmap import writer

_ERASE = "\r\x1b[K"
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 0))


class Console:
    """Both streams of the command. With `quiet` it doesn't talk: only complaints are written to `err`.

    `terminal`: stdout is one; `live`: a line can be drawn over and over on stderr.
    """

    def __init__(self, out: TextIO, err: TextIO, environ: Mapping[str, str], *, quiet: bool) -> None:
        self._out = out
        self._err = err
        self.talks = not quiet
        self.terminal = out.isatty()
        self.live = err.isatty() and environ.get("TERM") != "dumb" and not quiet
        self._lock = threading.Lock()
        self._moving = False
        self._shown = ""

    def print(self, text: str) -> None:
        """A result, for programs too."""
        self._out.buffer.write(f"{text}\n".encode(self._out.encoding, "backslashreplace"))
        self._out.buffer.flush()

    def print_json(self, message: Message) -> None:
        """A message as a line of JSON, in the REST API's form."""
        self.print(json.dumps(writer(type(message))(message), separators=(",", ":")))

    def print_table(self, *forms: Sequence[Sequence[str]]) -> None:
        """Rows in columns, the first row their head: the first of the `forms` that fits the terminal.

        Where none does the last one's lines are cut; what is no terminal gets the first form.
        """
        tables = [_aligned(form) for form in forms]
        lines = tables[0]
        if self.terminal:
            room = _columns_of(self._out)
            fitting = (table for table in tables if max(map(_width, table)) <= room)
            lines = next(fitting, [cut(line, room) for line in tables[-1]])
        self.print("\n".join(lines))

    @contextmanager
    def bytes_out(self) -> Iterator[Unbuffered]:
        """Stdout, for content."""
        self._out.flush()
        with open(self._out.fileno(), "wb", buffering=0, closefd=False) as out:
            yield Unbuffered(out)

    def say(self, text: str) -> None:
        """A line for people, unless they want quiet."""
        if self.talks:
            self.complain(text)

    def complain(self, text: str) -> None:
        """A line that nothing keeps back."""
        with self._lock:
            self._erase()
            self._err.write(f"{plain(text)}\n")
            self._err.flush()

    @property
    def columns(self) -> int:
        """How much of a line fits the terminal that `err` is."""
        return _columns_of(self._err) - 1

    @contextmanager
    def moving(self) -> Iterator[Callable[[str], None]]:
        """Draws a line over and over, on a terminal; what is drawn after the end, by another thread, is not shown."""
        self._moving = self.live
        try:
            yield self._draw
        finally:
            with self._lock:
                self._moving = False
                self._erase()
                self._err.flush()

    def _draw(self, text: str) -> None:
        with self._lock:
            if self._moving and text != self._shown:
                self._err.write(_ERASE + plain(text)[: self.columns])
                self._err.flush()
                self._shown = text

    def _erase(self) -> None:
        if self._shown:
            self._err.write(_ERASE)
            self._shown = ""


def plain(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def time_of(seconds: int) -> str:
    """Unix seconds as people read them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age_of(seconds: int, now: float) -> str:
    """How long ago Unix seconds were at `now`, in the largest unit that has at least one: `42s`, `7m`, `3h`, `12d`."""
    age = max(0, int(now) - seconds)
    unit, size = next((unit, size) for unit, size in _UNITS if age >= size)
    return f"{age // max(size, 1)}{unit}"


def cut(text: str, room: int) -> str:
    """The text, its end replaced by `...` where it takes more than `room` columns of a terminal."""
    if _width(text) <= room:
        return text
    while text and _width(text) > room - 3:
        text = text[:-1]
    return f"{text}..."


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    cells = [[plain(cell) for cell in row] for row in table]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(_padded, row, widths)).rstrip() for row in cells]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(0 if combining(one) else 2 if east_asian_width(one) in {"F", "W"} else 1 for one in text)


def _columns_of(terminal: TextIO) -> int:
    return os.get_terminal_size(terminal.fileno()).columns or 80
