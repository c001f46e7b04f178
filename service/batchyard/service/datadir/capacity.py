"""How much the file store may still take: its configured bound, and what the disk has to keep free."""

import asyncio
from pathlib import Path

from batchyard.service.datadir.disk import Disk
from batchyard.service.errors import StorageFull


class Room:
    """Counts the bytes that are stored in `folder`, those of unfinished objects included.

    `most` bounds them (None: the disk does); `least_free` are bytes of the disk that stay free for what must not fail
    then: results that are paid for, and the registry.
    """

    def __init__(self, disk: Disk, folder: Path, most: int | None, least_free: int) -> None:
        self.held = 0
        self._disk = disk
        self._folder = folder
        self._most = most
        self._least_free = least_free

    def take(self, size: int, *, bounded: bool) -> None:
        """Counts `size` bytes more. Raises StorageFull, and counts nothing, where they are `bounded` and don't fit."""
        if bounded and self._most is not None and self.held + size > self._most:
            raise _full(f"it may hold {self._most} bytes of files", "max_stored_bytes")
        self.held += size

    def give(self, size: int) -> None:
        """Counts `size` bytes less: they are gone, or were never written."""
        self.held -= size

    async def check(self) -> None:
        """Raises StorageFull where not even one byte more fits."""
        self.take(1, bounded=True)
        self.give(1)
        await self.check_free()

    async def check_free(self, size: int = 0) -> None:
        """Raises StorageFull where the disk has too little left for `size` bytes more."""
        if await asyncio.to_thread(self._disk.free_bytes, self._folder) - size < self._least_free:
            raise _full(f"its disk must keep {self._least_free} bytes free", "min_free_bytes")


def _full(bound: str, limit: str) -> StorageFull:
    return StorageFull(f"The storage of this service is full: {bound} (batchyard.limits.{limit}).")
