"""Local files: an input that is read once, and an output that is either whole or not there."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from batchyard.cli.errors import RunError

STDIO = "-"
_PIECE = 256 << 10
_MOST_HEAD = 16 << 20  # bytes that are read in search of a first line


class Source:
    """An input and its pieces. `size` is in bytes, None where it shows only at the end."""

    def __init__(self, file: FileIO, name: str) -> None:
        found = os.fstat(file.fileno())
        self.name = name
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else None
        self._pieces = iter(partial(file.read, _PIECE), b"")
        self._head = b""

    def __iter__(self) -> Iterator[bytes]:
        """The content in pieces, once. Raises OSError."""
        for start in range(0, len(self._head), _PIECE):
            yield self._head[start : start + _PIECE]
        yield from self._pieces

    def endpoint(self) -> str:
        """Looks ahead: see `endpoint`."""
        self._head = head(self._pieces)
        return endpoint(self._head, self.name)


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """The file at `path`, stdin for `-`. Raises OSError."""
    # Unbuffered: a thread that waits in a buffered stdin would abort the interpreter at its exit.
    if path == STDIO:
        with open(0, "rb", buffering=0, closefd=False) as file:
            yield Source(file, "stdin")
    else:
        with open(path, "rb", buffering=0) as file:
            yield Source(file, os.fsencode(os.path.basename(path)).decode(errors="replace"))


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


def check_place(path: str) -> None:
    """Raises RunError where no file can be made at `path`: to be known before the work, not after it."""
    folder = Path(path).absolute().parent
    if Path(path).is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"can't write to {path}")


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file that takes its place at `path` when it is whole; what ends early leaves nothing and replaces nothing."""
    place = Path(path)
    if place.exists() and not place.is_file():  # a pipe or a device
        with place.open("wb") as out:
            yield out
        return
    place = place.resolve()
    part = place.with_name(f".batchyard-{token_hex(4)}.part")
    try:
        with part.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
