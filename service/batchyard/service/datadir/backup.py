"""A copy of a data directory that a service may be using, taken so that it can be started from.

The registry is copied first, as of one moment, then the objects that it names, which never change; if one was deleted
in between, all is copied again. A journal may have more than the registry counted, which is just as well.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from batchyard.service.datadir import pairing
from batchyard.service.datadir.journals import journal_files

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
        more = " Another backup runs, or one was killed: then remove it." if isinstance(error, FileExistsError) else ""
        raise BackupError(f"{partial} can't be created: {error.strerror}.{more}") from error
    try:
        size = _copy(data_dir, partial)
        os.sync()
        partial.rename(destination)
        os.sync()
    except (OSError, sqlite3.Error, BackupError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise BackupError(f"The copy to {destination} failed: {error}.") from error
    except BaseException:  # Ctrl-C
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return size


def _copy(data_dir: Path, target: Path) -> int:
    """Copies everything, again where a file was deleted after the registry's copy was taken that still names it."""
    for _ in range(_TRIES):
        _copy_registry(data_dir / REGISTRY, target / REGISTRY)
        if mark := pairing.of_registry(target / REGISTRY):
            pairing.write(target, mark)
        keys = _named(target / REGISTRY)
        size = _copy_all(data_dir / OBJECTS, target / OBJECTS, keys, _link_or_copy)
        size += _copy_all(data_dir / JOURNALS, target / JOURNALS, _names(data_dir / JOURNALS), shutil.copyfile)
        missing = [key for key in keys if not (target / OBJECTS / key).is_file()]
        if not missing:
            return size
        for name in (OBJECTS, JOURNALS):
            shutil.rmtree(target / name)
        (target / REGISTRY).unlink()
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise BackupError(
        f"{data_dir / OBJECTS / missing[0]}{more} is named by the registry and missing; if it was not deleted just "
        "now, it is lost: delete that file over the API, or stop the service and copy the folder as it is"
    )


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
    with (
        closing(sqlite3.connect(f"file:{quote(str(source.absolute()))}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)


def _copy_all(source: Path, target: Path, names: Sequence[str], copy: Callable[[Path, Path], object]) -> int:
    size = 0
    target.mkdir(mode=0o700)
    for name in names:
        place = target / name
        place.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            copy(source / name, place)
        except FileNotFoundError:
            continue  # deleted meanwhile: if it is needed, all is copied again
        size += place.stat().st_size
    return size


def _names(folder: Path) -> list[str]:
    """The journals in a folder."""
    journals, _ = journal_files(folder) if folder.is_dir() else ([], [])
    return [one.path.name for one in journals]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
