"""Where results go: files that are replaced when there is something to write, and then whole."""

import os
import select
import stat
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple, Protocol

from batchyard.cli.errors import RunError

STDIO = "-"


class Places(NamedTuple):
    """Where the lines that succeeded and the others go: a path, `-` for stdout, None for nowhere.

    `chosen`: nobody named these files, so that they never replace one and are only made for lines.
    """

    output: str | None
    errors: str | None
    chosen: bool = False


def places(given: Namespace, stem: str, *, terminal: bool) -> Places:
    """As the options say; without them beside `stem` where stdout is a `terminal`, else on stdout.

    With --json stdout is for objects.
    """
    if given.output or given.json:
        return Places(given.output, given.errors)
    if not terminal:
        return Places(STDIO, given.errors)
    return Places(_free(f"{stem}.results", "jsonl"), given.errors or _free(f"{stem}.errors", "jsonl"), chosen=True)


def _free(stem: str, suffix: str) -> str:
    """A name that no file has yet."""
    path, number = f"{stem}.{suffix}", 1
    while os.path.lexists(path):
        number += 1
        path = f"{stem}.{number}.{suffix}"
    return path


class Writer(Protocol):
    """Takes content."""

    def write(self, data: bytes, /) -> int: ...


class Unbuffered:
    """Writes to a pipe or device: it keeps nothing back that would have to be flushed, to a reader who may not read."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def write(self, data: bytes, /) -> int:
        """Writes all of it."""
        left = memoryview(data)
        while left:
            written = self._file.write(left)
            if written is None:  # it doesn't block, and is full
                select.select([], [self._file], [])
            else:
                left = left[written:]
        return len(data)


def is_same(one: str, other: str) -> bool:
    """Whether two paths lead to one file, also by a link; `-` is no file."""
    if STDIO in {one, other}:
        return one == other
    with suppress(OSError):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


def is_stdin(path: str) -> bool:
    """Whether stdin is read from the file at `path`."""
    with suppress(OSError):
        return path != STDIO and os.path.samestat(os.stat(path), os.fstat(0)) and os.path.isfile(path)
    return False


def check_place(path: str) -> None:
    """Raises RunError where no file can be written at `path`: to be known before the work, not after it."""
    place = Path(os.path.realpath(path))
    if place.is_dir() or path.endswith("/"):
        raise RunError(f"can't write to {path}: it is a directory")
    if place.is_symlink():
        raise RunError(f"can't write to {path}: it is a link that leads in a circle")
    if not place.parent.is_dir():
        raise RunError(f"can't write to {path}: there is no folder {place.parent}")
    replaced = not place.exists() or place.is_file()
    if (place.exists() and not os.access(place, os.W_OK)) or (replaced and not _takes_files(place.parent)):
        raise RunError(f"can't write to {path}: permission denied")


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made there: permissions don't say so of a file system that is only to be read."""
    probe = _part(folder)
    try:
        with open(probe, "xb"):
            pass
    except OSError:
        return False
    probe.unlink()
    return True


def _part(folder: Path) -> Path:
    return folder / f".batchyard-{token_hex(4)}.part"


@contextmanager
def replacing(path: str) -> Iterator[Writer]:
    """A file that takes its place at `path` when it is whole; what ends early leaves nothing and replaces nothing.

    It has the permissions of the one that it replaces. Raises OSError that names `path`.
    """
    place = Path(os.path.realpath(path))
    try:
        if place.exists() and not place.is_file():  # a pipe or a device
            with place.open("wb", buffering=0) as out:
                yield Unbuffered(out)
            return
        part = _part(place.parent)
        try:
            with part.open("xb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            with suppress(FileNotFoundError):
                part.chmod(stat.S_IMODE(place.stat().st_mode))
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
