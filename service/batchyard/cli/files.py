"""Local files as inputs, which are read once."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import FileIO

from batchyard.cli import inputs
from batchyard.cli.errors import RunError
from batchyard.cli.outputs import STDIO

_PIECE = 256 << 10
_COUNTED = 1 << 20
_MOST_HEAD = 16 << 20  # bytes that are read in search of a first line


class Source:
    """An input and its pieces. `size` is in bytes, None where it shows only at the end; `path` is as it was given."""

    def __init__(self, file: FileIO, path: str, name: str) -> None:
        found = os.fstat(file.fileno())
        self.name = name
        self.path = path
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else None
        self._pieces = iter(partial(file.read, _PIECE), b"")
        self._head = b""

    def __iter__(self) -> Iterator[bytes]:
        """The content in pieces, once. Raises OSError."""
        for start in range(0, len(self._head), _PIECE):
            yield self._head[start : start + _PIECE]
        yield from self._pieces

    def check(self) -> None:
        """Looks ahead. Raises RunError where it begins like something that can't be a batch's input, and OSError."""
        self._look_ahead()
        inputs.check_head(self._head, self.path, whole=len(self._head) < _MOST_HEAD)
        inputs.check_name(self.name, self.path)

    def endpoint(self) -> str:
        """Looks ahead: see `endpoint`."""
        self._look_ahead()
        return endpoint(self._head, self.name)

    def check_size(self, bounds: inputs.Bounds | None) -> None:
        """Reads a named file through, beside its pieces. Raises RunError where it has more than `bounds`, OSError."""
        if bounds and self.size is not None and self.path != STDIO:
            lines = inputs.Lines()
            with open(self.path, "rb", buffering=0) as file:
                for piece in iter(partial(file.read, _COUNTED), b""):
                    lines.add(piece)
                    lines.check(bounds, self.path)

    def _look_ahead(self) -> None:
        if not self._head:
            self._head = head(self._pieces)


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """The file at `path`, stdin for `-`. Raises OSError."""
    # Unbuffered: a thread that waits in a buffered stdin would abort the interpreter at its exit.
    if path == STDIO:
        with open(0, "rb", buffering=0, closefd=False) as file:
            yield Source(file, STDIO, "stdin")
    else:
        with open(path, "rb", buffering=0) as file:
            yield Source(file, path, os.fsencode(os.path.basename(path)).decode(errors="replace"))


def head(pieces: Iterator[bytes]) -> bytes:
    """Reads until a first line that isn't blank is whole, 16 MiB at most, and returns all that was read."""
    read = bytearray()
    for piece in pieces:
        read += piece
        if len(read) >= _MOST_HEAD or (b"\n" in piece and b"\n" in read.lstrip()):
            break
    return bytes(read)


def endpoint(content: bytes, name: str) -> str:
    """What the first line says in "url". Raises RunError where it says nothing."""
    try:
        url = json.loads(content.lstrip().partition(b"\n")[0])["url"]
    except (ValueError, LookupError, TypeError, RecursionError):
        url = None
    if not isinstance(url, str):
        raise RunError(f'{name}: the first line has no "url" to take the endpoint from; name one with --endpoint')
    return url
