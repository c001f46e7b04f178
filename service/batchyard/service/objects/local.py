"""An `ObjectStore` in a folder: a file for each object, durable once committed.

obstore writes an object under `name#1` and renames it when it is complete; it syncs neither file nor folder, which is
why `FileWriter.commit` does. Nothing is taken for missing, and nothing for written, while the folder itself is away.
"""

import asyncio
import errno
import logging
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count, islice
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import HTTPStore, LocalStore

from batchyard.service.background import to_the_end
from batchyard.service.datadir.capacity import Room
from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import Part
from batchyard.service.errors import StorageFull, Unavailable
from batchyard.service.objects.base import (
    KEY,
    WRITE_BYTES,
    ObjectDamaged,
    ObjectMissing,
    PieceBytes,
    StoredObject,
    largest,
)
from batchyard.service.objects.checksums import Checksums
from batchyard.service.objects.reading import read_parts
from batchyard.service.objects.walk import Others, walk

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SHORT = "it is too short"
_GROUP = 500  # objects that are listed in one turn of a thread

_log = logging.getLogger("batchyard.store")


class _Folder:
    """A folder that is created where it is missing, and may go away with the disk that it is on."""

    def __init__(self, path: Path, disk: Disk) -> None:
        disk.make_dir(path, site="store.root")
        self.path = path
        self._inode = _inode(path)

    def is_there(self) -> bool:
        return _inode(self.path) == self._inode

    def check(self) -> None:
        """Raises OSError where it is not there, or another one is."""
        if not self.is_there():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))


class FileWriter:
    """An `ObjectWriter`, made by `FileStore.writer`; it holds about three times `WRITE_BYTES`."""

    def __init__(
        self, store: LocalStore, disk: Disk, folder: _Folder, key: str, room: Room, *, bounded: bool, spare: bool
    ) -> None:
        self.size = 0
        self.committed = False
        self._key = key
        self._sums = Checksums()
        self._disk = disk
        self._folder = folder
        self._room = room
        self._bounded = bounded
        self._spare = spare
        self._path = folder.path / key
        self._block = bytearray()
        self._sink = obstore.open_writer_async(store, key, buffer_size=WRITE_BYTES, max_concurrency=1)

    @property
    def part(self) -> Part:
        return Part(self._key, self.size, self._sums.value())

    def sum(self, data: bytes) -> None:
        self._sums.update(data)

    async def write(self, data: bytes | memoryview) -> None:
        if self._sums.size == self.size:
            self._sums.update(data)
        self._room.take(len(data), bounded=self._bounded)
        self.size += len(data)
        if len(data) >= WRITE_BYTES and not self._block:
            await self._hand_on(data)
            return
        self._block += data
        if len(self._block) >= WRITE_BYTES:
            await self._flush()

    async def commit(self) -> None:
        await self._flush()
        with _storage_errors("write", self._key):
            await to_the_end(self._sink.close())
            await to_the_end(asyncio.to_thread(self._sync))
        self.committed = True

    async def discard(self) -> None:
        """Removes every trace; what can't be removed now is left to the next start, and counted until then."""
        del self._sink

        async def work() -> None:
            await asyncio.to_thread(self._remove)
            self._room.give(self.size)

        with suppress(Unavailable), _storage_errors("remove", self._key):
            await to_the_end(work())

    async def _flush(self) -> None:
        block, self._block = self._block, bytearray()
        await self._hand_on(block)

    async def _hand_on(self, block: bytes | bytearray | memoryview) -> None:
        with _storage_errors("write", self._key):
            if not self._spare:
                await self._room.check_free(len(block))
            await to_the_end(self._sink.write(block))

    def _sync(self) -> None:
        folder = self._path.parent
        self._disk.sync_file(self._path, site=f"{folder.name}.object")
        self._disk.sync_dir(folder, site=f"{folder.name}.entry")
        self._folder.check()

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)
        for number in count(1):
            try:
                self._path.with_name(f"{self._path.name}#{number}").unlink()
            except FileNotFoundError:
                return


class FileStore:
    """An `ObjectStore` under `root`, a folder that is created where it is missing.

    Its objects come to `max_bytes` at most (None: what the disk takes), and leave `min_free` bytes of the disk free.
    What was there at the start is counted by a sweep.
    """

    def __init__(
        self,
        root: Path,
        disk: Disk,
        *,
        max_bytes: int | None = None,
        min_free: int = 0,
        source: HTTPStore | None = None,
    ) -> None:
        """`source` is what is read from, where that is not the folder itself."""
        self.root = root
        self._folder = _Folder(root, disk)
        self.room = Room(disk, root, max_bytes, min_free)
        self._disk = disk
        self._store = LocalStore(prefix=root)
        self._source = source or self._store
        self._folders: set[str] = set()

    @asynccontextmanager
    async def writer(self, key: str, *, bounded: bool = True, spare: bool = False) -> AsyncIterator[FileWriter]:
        if not KEY.fullmatch(key):
            raise ValueError(f"malformed key: {key!r}")
        if bounded and not spare:
            await self.check_space()
        await self._prepare(key)
        writer = FileWriter(self._store, self._disk, self._folder, key, self.room, bounded=bounded, spare=spare)
        try:
            yield writer
        finally:
            if not writer.committed:
                await writer.discard()

    async def check_space(self) -> None:
        with _storage_errors("write", ""):
            await self.room.check()

    def read(
        self, parts: Sequence[Part], offset: int, length: int, piece_bytes: PieceBytes = largest
    ) -> AsyncIterator[bytes]:
        return read_parts(self._range, parts, offset, length, piece_bytes)

    async def _range(self, key: str, start: int, end: int) -> bytes:
        try:
            data = bytes(await obstore.get_range_async(self._source, key, start=start, end=end))
        except (BaseError, OSError) as error:
            raise await self._judged(error, key, end) from error
        if len(data) != end - start:
            raise ObjectDamaged(key, _SHORT)
        return data

    async def _judged(self, error: Exception, key: str, end: int) -> Exception:
        """What it means that an object can't be read up to `end`: its store is asked once more what it has."""
        try:
            size = (await obstore.head_async(self._source, key))["size"]
        except FileNotFoundError:
            if await asyncio.to_thread(self._folder.is_there):
                return ObjectMissing(key)
        except (BaseError, OSError) as again:
            error = again
        else:
            if size < end:
                return ObjectDamaged(key, _SHORT)
        return _unavailable("read", key, error)

    async def delete(self, key: str) -> None:
        """After a power cut it may be back, for a sweep to find."""

        async def work() -> None:
            self.room.give(await asyncio.to_thread(self._removed, key))

        with _storage_errors("remove", key):
            await to_the_end(work())

    def _removed(self, key: str) -> int:
        """Removes an object's file, and returns how many bytes that freed."""
        path = self.root / key
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            self._folder.check()
            return 0
        return size

    async def listed(self, prefix: str, before: float) -> AsyncIterator[StoredObject]:
        others = Others()
        objects = (one for one in walk(self.root, others, prefix) if one.modified < before)
        with _storage_errors("list", prefix):
            await asyncio.to_thread(self._folder.check)
        while group := await asyncio.to_thread(lambda: list(islice(objects, _GROUP))):
            for one in group:
                yield one
        for name, error in others.unreadable.items():
            raise _unavailable("list", name, error) from error

    async def _prepare(self, key: str) -> None:
        folder = key.partition("/")[0]
        if folder not in self._folders:
            with _storage_errors("write", key):
                make = asyncio.to_thread(self._disk.make_dir, self.root / folder, site=f"{folder}.folder")
                await to_the_end(make)
            self._folders.add(folder)


@contextmanager
def _storage_errors(what: str, key: str) -> Iterator[None]:
    """Turns the system's and obstore's words for what failed into ours: a full disk, or one that fails now."""
    try:
        yield
    except (BaseError, OSError) as error:
        if what == "write" and _errno(error) in _FULL:
            raise StorageFull("The service has no space left to store this.") from error
        raise _unavailable(what, key, error) from error


def _errno(error: Exception) -> int | None:
    """Finds the system's number of an error; obstore's have it in their text, OSErrors of its writer too."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else None


def _inode(path: Path) -> tuple[int, int] | None:
    """Which folder a path leads to, if to any."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _unavailable(what: str, key: str, error: Exception) -> Unavailable:
    _log.warning("the store could not %s an object", what, extra={"object": key, "error": type(error).__name__})
    return Unavailable("The storage of this service can't be reached right now.")
