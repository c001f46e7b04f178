"""Where files go that look like ours and that the registry does not name: kept for a week, in case it is wrong.

How long they were kept is counted in seconds that a service ran here. No clock is asked, so that none can shorten it.
"""

import logging
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from time import gmtime, strftime

from batchyard.service.datadir.disk import Disk

KEPT_SECONDS = 7 * 86_400
_AGE = "age"
_NAME = re.compile("[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")

_log = logging.getLogger("batchyard.datadir")


class Aside:
    """A folder with a subfolder for each start that moved something. Blocking calls: run them in a thread."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder = folder
        self._disk = disk
        self._now: Path | None = None

    def move(self, root: Path, key: str) -> None:
        """Moves the file `key` of the folder `root`, to where it has the same key. Raises OSError."""
        if self._now is None:
            self._now = self.folder / f"{strftime('%Y%m%dT%H%M%SZ', gmtime())}-{token_hex(4)}"
        source, target = root / key, self._now / key
        if not target.parent.is_dir():
            self._disk.make_dir(target.parent, site="aside.folder")
        try:
            source.rename(target)
        except OSError:  # on another file system
            shutil.copy2(source, target)
            self._disk.sync_file(target, site="aside.file")
            source.unlink()

    def sync(self) -> None:
        """Makes what was moved durable at its new place."""
        if self._now is not None:
            for folder in (self._now, *(path for path in self._now.rglob("*") if path.is_dir())):
                self._disk.sync_dir(folder, site="aside.entry")

    def grow(self, seconds: float) -> None:
        """Counts the age of all that is here on by so many seconds, and removes what was kept for a week.

        Raises OSError, once all that can be done is.
        """
        failed: list[OSError] = []
        for folder in self._folders():
            try:
                _grow(folder, seconds)
            except OSError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _folders(self) -> list[Path]:
        """Those that we made."""
        try:
            with os.scandir(self.folder) as entries:
                return [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name) and entry.is_dir()]
        except OSError:
            return []


def _grow(folder: Path, seconds: float) -> None:
    age = _age(folder) + seconds
    if age < KEPT_SECONDS:
        (folder / _AGE).write_text(f"{age:.0f}\n")
        return
    count = sum(path.is_file() for path in folder.rglob("*")) - (folder / _AGE).is_file()
    shutil.rmtree(folder)
    _log.warning("files that were moved aside a week ago are removed", extra={"folder": str(folder), "files": count})


def _age(folder: Path) -> int:
    """Seconds; 0 where it can't be read: then it is kept for longer."""
    with suppress(OSError, ValueError):
        text = (folder / _AGE).read_text().strip()
        return int(text) if text.isascii() and text.isdecimal() else 0
    return 0
