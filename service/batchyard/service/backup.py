"""A copy of a data directory that a service may be using, taken so that it can be started from.

The registry is copied first, as of one moment, then the objects: those that it names exist before and never change.
What was written after that moment is either whole and unnamed, and swept at the next start, or a journal that has more
than the registry counted, which is just as well.
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


class BackupError(Exception):
    """The copy could not be made; nothing is left of it."""


def back_up(data_dir: Path, destination: Path) -> int:
    """Copies a data directory to a new folder and returns the bytes that it names.

    Objects are linked where both are on one file system, and so take no space until the original is deleted. When this
    returns, the copy is synced. Raises BackupError.
    """
    if not (data_dir / REGISTRY).is_file():
        raise BackupError(f"{data_dir} is not a data directory: it has no {REGISTRY}.")
    if destination.exists():
        raise BackupError(f"{destination} exists already.")
    partial = destination.with_name(f"{destination.name}.partial")
    try:
        partial.mkdir(parents=True)
        _copy_registry(data_dir / REGISTRY, partial / REGISTRY)
        size = _copy_tree(data_dir / OBJECTS, partial / OBJECTS, _link_or_copy)
        size += _copy_tree(data_dir / JOURNALS, partial / JOURNALS, shutil.copyfile)
        os.sync()
        partial.rename(destination)
        os.sync()
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise BackupError(f"The copy to {destination} failed: {error}.") from error
    return size


def _copy_registry(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)


def _copy_tree(source: Path, target: Path, copy: Callable[[Path, Path], object]) -> int:
    size = 0
    target.mkdir()
    for path in _files(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(exist_ok=True)
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
