"""A disk that loses its power: what the service synced survives, and nothing else does."""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from tempfile import mkdtemp

from batchyard.service.datadir.disk import Disk, HasFileno


class PowerCut(Disk):
    """Remembers, for the tree under `root`, how long each file was and what each folder named at its last sync.

    Calls at a site in `without` do nothing, so that a test can show that their loss is noticed; `sites` counts all
    calls. Nothing is really synced. Inodes that were synced are kept by hard links beside `root`: removing or
    replacing a file doesn't make what is on the disk forget it.
    """

    def __init__(self, root: Path, *, without: Collection[str] = ()) -> None:
        self.sites: Counter[str] = Counter()
        self._root = root.resolve()
        self._without = frozenset(without)
        self._links = Path(mkdtemp(prefix="synced-", dir=self._root.parent))
        self._lengths: dict[int, int] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._lock = threading.Lock()
        for folder, _, _ in os.walk(self._root):  # what is there already came from the disk
            self._entries[os.stat(folder).st_ino] = self._seen(folder)
        for inode in self._lengths:
            self._lengths[inode] = os.stat(self._links / str(inode)).st_size

    def sync_file(self, path: Path, *, site: str) -> None:
        if self._happens(site):
            self._sync(str(path))

    def sync_data(self, file: HasFileno, *, site: str) -> None:
        if self._happens(site):
            self._sync(os.readlink(f"/proc/self/fd/{file.fileno()}"))

    def sync_dir(self, path: Path, *, site: str) -> None:
        if self._happens(site) and path.resolve().is_relative_to(self._root):
            with self._lock:
                self._entries[path.stat().st_ino] = self._seen(path)

    def survivors(
        self, destination: Path, *, removed: bool = False, whole: Sequence[str] = ("*.db", "*.db-wal")
    ) -> None:
        """Builds the tree as the next start would find it, in the new folder `destination`.

        A removal that was not synced may have reached the disk or not; `removed` says which. Files of `root` itself
        whose names match `whole` are copied as they are: SQLite syncs its own.
        """
        with self._lock:
            self._rebuild(self._root.stat().st_ino, destination, self._alive() if removed else None)
        for path in self._root.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in whole):
                shutil.copyfile(path, destination / path.name)

    def _happens(self, site: str) -> bool:
        with self._lock:
            self.sites[site] += 1
        return site not in self._without

    def _sync(self, path: str) -> None:
        with self._lock:
            status = os.stat(path)
            self._keep(path, status.st_ino)
            self._lengths[status.st_ino] = status.st_size

    def _seen(self, folder: str | Path) -> dict[str, int]:
        seen = {}
        for entry in _entries(folder):
            with suppress(FileNotFoundError):  # removed meanwhile
                seen[entry.name] = self._see(entry)
        return seen

    def _see(self, entry: os.DirEntry[str]) -> int:
        if entry.is_dir():
            self._entries.setdefault(entry.inode(), {})
        else:
            self._keep(entry.path, entry.inode())
        return entry.inode()

    def _keep(self, path: str, inode: int) -> None:
        if inode not in self._lengths:
            os.link(path, self._links / str(inode))
            self._lengths[inode] = 0

    def _alive(self) -> set[int]:
        return {entry.inode() for folder, _, _ in os.walk(self._root) for entry in _entries(folder) if entry.is_file()}

    def _rebuild(self, folder: int, destination: Path, alive: set[int] | None) -> None:
        destination.mkdir()
        for name, inode in self._entries.get(folder, {}).items():
            if inode in self._entries:
                self._rebuild(inode, destination / name, alive)
            elif alive is None or inode in alive:
                content = (self._links / str(inode)).read_bytes()
                (destination / name).write_bytes(content[: self._lengths[inode]])


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return list(found)
