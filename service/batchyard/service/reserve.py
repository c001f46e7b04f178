"""Room on the disk that is kept for the day it is full: then deletions, cancellations and a start still work."""

import logging
import os
import threading
from pathlib import Path

from batchyard.service.disk import Disk

BYTES = 4 << 20

_log = logging.getLogger("batchyard.service")


class Reserve:
    """A file of `BYTES` that nobody reads, in the data directory. Its calls block: use them in a thread."""

    def __init__(self, path: Path, disk: Disk, least_free: int) -> None:
        """It is made only where `least_free` bytes stay free beside it."""
        self._path = path
        self._disk = disk
        self._least_free = least_free
        self._lock = threading.Lock()

    def keep(self) -> None:
        """Makes it, where it isn't there and fits."""
        with self._lock:
            if self._path.exists() or self._disk.free_bytes(self._path.parent) < BYTES + self._least_free:
                return
            try:
                with self._path.open("xb") as file:
                    os.posix_fallocate(file.fileno(), 0, BYTES)
            except OSError:
                self._path.unlink(missing_ok=True)

    def give_up(self) -> bool:
        """Gives its room back; False: it had none."""
        with self._lock:
            if not self._path.exists():
                return False
            self._path.unlink()
        _log.warning("the disk is full; the reserve for deletions is used up now", extra={"bytes": BYTES})
        return True
