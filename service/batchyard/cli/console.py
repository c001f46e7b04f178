"""What the command for people writes: its results on stdout, talk and the line that moves on stderr."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from google.protobuf.message import Message

from batchyard.cli.outputs import Unbuffered
from batchyard.common.jsonmap import writer

_ERASE = "\r\x1b[K"


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

    def print_table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under a head, in columns."""
        table = [head, *([plain(cell) for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
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
        return (os.get_terminal_size(self._err.fileno()).columns or 80) - 1

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
