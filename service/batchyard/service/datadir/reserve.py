"""Room on the disk that is kept for the day it is full: then deletions, cancellations and a start still work."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RESERVE_BYTES = 8 << 20
_STEP = 256 << 10


class Reserve:
    """A file that takes `size` bytes of the disk, or what there is of them, and gives them up while it is lent.

    For any thread of the one process that holds the lock of its folder.
    """

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size = size
        self._held = 0
        self._lent = 0
        self._lock = threading.Lock()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The room is free until the context ends, the last one of several that are open."""
        with self._lock:
            self._lent += 1
            self._held = 0
            with suppress(OSError):  # there is none yet
                os.truncate(self._path, 0)
        try:
            yield
        finally:
            with self._lock:
                self._lent -= 1
            self.make()

    def make(self) -> None:
        """Takes what is missing, as far as the disk has it; costs nothing where all is there."""
        with self._lock:
            if self._lent or self._held >= self._size:
                return
            try:
                with self._path.open("ab") as file:
                    while self._held < self._size:
                        os.posix_fallocate(file.fileno(), self._held, _STEP)
                        self._held += _STEP
            except OSError:  # full: whoever makes room comes by here again
                return
