"""Where bytes become durable: the one seam through which this service syncs.

A write is acknowledged only after the calls here say that it is on the disk. Each call names its site, so that a test
can take the place of `Disk`, model a page cache that a power cut empties, leave out one site and see what is lost.
"""

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from batchyard.service.errors import Unavailable


class HasFileno(Protocol):
    """An open file."""

    def fileno(self) -> int: ...


class Disk:
    """The blocking calls that make files and folders survive a power cut; run them in a thread.

    All raise OSError where the system reports that it could not write: nothing may be acknowledged then.
    """

    def sync_file(self, path: Path, *, site: str) -> None:
        """Makes a finished file's content durable; its name is durable only after `sync_dir` of its folder."""
        _fsync(path, os.O_RDONLY)

    def sync_data(self, file: HasFileno, *, site: str) -> None:
        """Makes what was written to a growing, open file durable. Python's own buffer must be flushed before."""
        os.fdatasync(file.fileno())

    def sync_dir(self, path: Path, *, site: str) -> None:
        """Makes a folder's entries durable: names that were added, replaced and removed."""
        _fsync(path, os.O_RDONLY | os.O_DIRECTORY)

    def make_dir(self, path: Path, *, site: str) -> None:
        """Creates a folder and its missing parents, durably and for this user only.

        The entry is synced also where the folder is there already: who made it may have died before its own sync.
        """
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in (*reversed(missing), path):
            folder.mkdir(mode=0o700, exist_ok=True)
            self.sync_dir(folder.parent, site=site)

    def free_bytes(self, path: Path) -> int:
        """Returns how many bytes the file system that holds `path` still takes from this user."""
        return shutil.disk_usage(path).free


class DirectoryInUse(Unavailable):
    """Another process holds the data directory."""


class DirectoryLock:
    """Keeps a second process out of a data directory that exists, while the context is open.

    Entering raises DirectoryInUse where another process is in. The kernel drops the lock when a process dies.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file = -1

    def __enter__(self) -> Self:
        file = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if isinstance(error, BlockingIOError):
                raise DirectoryInUse(
                    f"{self._data_dir} is in use by another Batchyard process: stop that, or name another --data-dir."
                ) from None
            raise
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def _fsync(path: Path, flags: int) -> None:
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)
