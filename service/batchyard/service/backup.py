"""A copy of a data directory that a service may be using, taken so that it can be started from.

The registry is copied first, as of one moment, then the objects, which never change; if one was deleted in between, all
is copied again. What was written after that moment is whole and unnamed, and swept at the next start, or a journal that
has more than the registry counted, which is just as well.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

REGISTRY = "registry.sqlite3"
OBJECTS = "store"
JOURNALS = "work"
_TRIES = 5


class BackupError(Exception):
    """The copy could not be made; nothing is left of it."""


def back_up(data_dir: Path, destination: Path) -> int:
    """Copies a data directory to a new folder, for this user only, and returns how many bytes of files that were.

    Objects are linked where both are on one file system, and so take no space until the original is deleted. When this
    returns, the copy is synced. Raises BackupError.
    """
    if not (data_dir / REGISTRY).is_file():
        raise BackupError(f"{data_dir} is not a data directory: it has no {REGISTRY}.")
    if destination.exists():
        raise BackupError(f"{destination} exists already.")
    partial = destination.with_name(f"{destination.name}.partial")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(mode=0o700)
    except OSError as error:
        raise BackupError(f"{partial} can't be created: {error.strerror}.") from error
    try:
        size = _copy(data_dir, partial)
        os.sync()
        partial.rename(destination)
        os.sync()
    except (OSError, sqlite3.Error, BackupError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise BackupError(f"The copy to {destination} failed: {error}.") from error
    return size


def _copy(data_dir: Path, target: Path) -> int:
    """Copies everything, again where a file was deleted after the registry's copy was taken that still names it."""
    for _ in range(_TRIES):
        _copy_registry(data_dir / REGISTRY, target / REGISTRY)
        size = _copy_tree(data_dir / OBJECTS, target / OBJECTS, _link_or_copy)
        size += _copy_tree(data_dir / JOURNALS, target / JOURNALS, shutil.copyfile)
        if all((target / OBJECTS / key).is_file() for key in _named(target / REGISTRY)):
            return size
        for name in (OBJECTS, JOURNALS):
            shutil.rmtree(target / name)
        (target / REGISTRY).unlink()
    raise BackupError("files were deleted all the while")


def _named(registry: Path) -> list[str]:
    """The objects that a registry's living files and sealed chunks need."""
    query = """
        SELECT key FROM file_parts JOIN files ON files.seq = file_seq WHERE deleted_at IS NULL
        UNION SELECT output_key FROM chunks WHERE output_key IS NOT NULL
        UNION SELECT error_key FROM chunks WHERE error_key IS NOT NULL
    """
    with closing(sqlite3.connect(registry)) as connection:
        return [key for (key,) in connection.execute(query)]


def _copy_registry(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)


def _copy_tree(source: Path, target: Path, copy: Callable[[Path, Path], object]) -> int:
    size = 0
    target.mkdir(mode=0o700)
    for path in _files(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            copy(path, place)
        except FileNotFoundError:
            continue  # deleted meanwhile, and so not needed by what is alive
        size += place.stat().st_size
    return size


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, without those that an upload is still writing."""
    return (path for path in folder.rglob("*") if path.is_file() and "#" not in path.name)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
