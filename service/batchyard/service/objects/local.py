"""The bytes that the service itself holds: immutable objects in a local store, durable once committed.

A key is a folder and a name, `files/file-abc`. obstore writes an object under `name#1` and renames it when it is
complete; it syncs neither file nor folder, which is why `Writer.commit` does. What is read is compared with the
checksums that were made when it was written. Only what is certain is DataLoss: an object that is not there, is too
short, or differs. Whatever else keeps bytes from being read is Unavailable, and may pass.
"""

import asyncio
import errno
import logging
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from batchyard.service.background import to_the_end
from batchyard.service.datadir.capacity import Room
from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import Part
from batchyard.service.errors import DataLoss, StorageFull, Unavailable
from batchyard.service.objects import checksums
from batchyard.service.objects.checksums import Checksums

KIB = 1024
BLOCK = 512 * KIB
"""What a writer gathers before it hands on; it holds about three of these."""

KEY = re.compile(r"[a-z]+/[A-Za-z0-9](?:[A-Za-z0-9._:-]*[A-Za-z0-9])?")
"""The form of a key."""
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MISSING = "it is missing"

_log = logging.getLogger("batchyard.store")


class Writer:
    """One object being written, of `size` bytes so far. Made by `FileStore.writer`."""

    def __init__(
        self, store: LocalStore, disk: Disk, root: Path, key: str, room: Room, *, bounded: bool, spare: bool
    ) -> None:
        self.size = 0
        self.committed = False
        self._key = key
        self._sums = Checksums()
        self._disk = disk
        self._room = room
        self._bounded = bounded
        self._spare = spare
        self._path = root / key
        self._block = bytearray()
        self._sink = obstore.open_writer_async(store, key, buffer_size=BLOCK, max_concurrency=1)

    @property
    def part(self) -> Part:
        """The object as it is so far."""
        return Part(self._key, self.size, self._sums.value())

    def sum(self, data: bytes) -> None:
        """Makes the checksums of what is the next to be written, in any thread; `write` then need not."""
        self._sums.update(data)

    async def write(self, data: bytes | memoryview) -> None:
        """Appends; pieces of any size are fine. Raises StorageFull, and Unavailable where the disk does not take it."""
        if self._sums.size == self.size:
            self._sums.update(data)
        self._room.take(len(data), bounded=self._bounded)
        self.size += len(data)
        if len(data) >= BLOCK and not self._block:
            await self._hand_on(data)
            return
        self._block += data
        if len(self._block) >= BLOCK:
            await self._flush()

    async def commit(self) -> None:
        """Ends the object; when this returns, it is durable under its key. Raises StorageFull, Unavailable."""
        await self._flush()
        with _storage_errors():
            await to_the_end(self._sink.close())
            await to_the_end(asyncio.to_thread(self._sync))
        self.committed = True

    async def discard(self) -> None:
        """Removes every trace."""
        del self._sink
        await to_the_end(asyncio.to_thread(self._remove))
        self._room.give(self.size)

    async def _flush(self) -> None:
        block, self._block = self._block, bytearray()
        await self._hand_on(block)

    async def _hand_on(self, block: bytes | bytearray | memoryview) -> None:
        if not self._spare:
            await self._room.check_free(len(block))
        with _storage_errors():
            await to_the_end(self._sink.write(block))

    def _sync(self) -> None:
        folder = self._path.parent
        self._disk.sync_file(self._path, site=f"{folder.name}.object")
        self._disk.sync_dir(folder, site=f"{folder.name}.entry")

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)
        for number in count(1):
            try:
                self._path.with_name(f"{self._path.name}#{number}").unlink()
            except FileNotFoundError:
                return


class FileStore:
    """Immutable objects under `root`, a folder that is created where it is missing.

    They come to `max_bytes` at most (None: what the disk takes), and leave `min_free` bytes of the disk free. What was
    there at the start is counted by a sweep.
    """

    def __init__(
        self,
        root: Path,
        disk: Disk,
        *,
        max_bytes: int | None = None,
        min_free: int = 0,
        source: "ObjectStore | None" = None,
    ) -> None:
        """`source` is what is read from, where that is not the folder itself."""
        disk.make_dir(root, site="store.root")
        self.room = Room(disk, root, max_bytes, min_free)
        self.root = root
        self._place = _inode(root)
        self._disk = disk
        self._store = LocalStore(prefix=root)
        self._source = source or self._store
        self._folders: set[str] = set()

    @asynccontextmanager
    async def writer(self, key: str, *, bounded: bool = True, spare: bool = False) -> AsyncIterator[Writer]:
        """Writes the object `key`, which must be new. Leaving without `commit` leaves no trace of it.

        `bounded` says whether it counts against `max_bytes`, `spare` whether it may take of what is kept free.
        Raises StorageFull, ValueError for a malformed key.
        """
        if not KEY.fullmatch(key):
            raise ValueError(f"malformed key: {key!r}")
        if bounded and not spare:
            await self.room.check()
        await self._prepare(key.partition("/")[0])
        writer = Writer(self._store, self._disk, self.root, key, self.room, bounded=bounded, spare=spare)
        try:
            yield writer
        finally:
            if not writer.committed:
                await writer.discard()

    async def read(
        self, parts: Sequence[Part], offset: int, length: int, piece_bytes: int = 256 * KIB
    ) -> AsyncIterator[bytes]:
        """Reads `length` bytes from `offset` of the parts' concatenation, in pieces of at most `piece_bytes`.

        Where a part has checksums, whole blocks are read and compared, and then cut. Raises DataLoss, before a byte of
        the block, where an object is missing, short or damaged, Unavailable where it can't be read now, ValueError for
        a range outside of the whole.
        """
        if offset < 0 or length < 0 or offset + length > sum(part.size for part in parts):
            raise ValueError(f"no range of {length} bytes at {offset}")
        for part, start, end in _ranges(parts, offset, length):
            if part.sums is None:
                for at in range(start, end, piece_bytes):
                    yield await self._range(part.key, at, min(at + piece_bytes, end))
                continue
            for at in range(start - start % checksums.BLOCK, end, checksums.BLOCK):
                block = (await self._block(part, at, part.sums))[max(0, start - at) : end - at]
                for cut in range(0, len(block), piece_bytes):
                    yield block[cut : cut + piece_bytes]

    async def _block(self, part: Part, start: int, sums: bytes) -> bytes:
        """The block of an object that begins at `start`, compared with its checksum."""
        block = await self._range(part.key, start, min(start + checksums.BLOCK, part.size))
        number = start // checksums.BLOCK
        if not checksums.is_intact(block, number, sums):
            raise _data_loss(part.key, "its bytes have changed", block=number)
        return block

    async def _range(self, key: str, start: int, end: int) -> bytes:
        try:
            data = bytes(await obstore.get_range_async(self._source, key, start=start, end=end))
        except Exception as error:
            raise await self._judged(error, key, end) from error
        if len(data) != end - start:
            raise _data_loss(key, "it is too short")
        return data

    async def _judged(self, error: Exception, key: str, end: int) -> Exception:
        """What it means that an object can't be read up to `end`: its store is asked once more what it has.

        Nothing is missing where the folder of the store itself went away, with the disk that it is on.
        """
        try:
            size = (await obstore.head_async(self._source, key))["size"]
        except FileNotFoundError:
            if await asyncio.to_thread(_inode, self.root) == self._place:
                return _data_loss(key, _MISSING)
        except Exception as again:
            error = again
        else:
            if size < end:
                return _data_loss(key, "it is too short")
        return _unavailable("read", key, error)

    async def delete(self, key: str) -> None:
        """Removes an object; one that is missing is fine. After a power cut it may be back, for a sweep to find."""

        async def work() -> None:
            self.room.give(await asyncio.to_thread(removed, self.root / key))

        await to_the_end(work())

    async def _prepare(self, folder: str) -> None:
        if folder not in self._folders:
            with _storage_errors():
                make = asyncio.to_thread(self._disk.make_dir, self.root / folder, site=f"{folder}.folder")
                await to_the_end(make)
            self._folders.add(folder)


def _ranges(parts: Sequence[Part], offset: int, length: int) -> Iterator[tuple[Part, int, int]]:
    """Cuts a range of the whole into (part, start, end)."""
    for part in parts:
        end = min(offset + length, part.size)
        if offset < end:
            yield part, offset, end
            length -= end - offset
        offset = max(0, offset - part.size)


def removed(path: Path) -> int:
    """Removes a file, and returns how many bytes that freed: none where it was gone."""
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Turns the system's and obstore's words for a write that failed into ours: a full disk, or one that fails now."""
    try:
        yield
    except (BaseError, OSError) as error:
        if _errno(error) in _FULL:
            raise StorageFull("The service has no space left to store this.") from error
        raise _unavailable("write", "", error) from error


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


def _data_loss(key: str, why: str, **block: int) -> DataLoss:
    if why is not _MISSING:  # that may be right: it was deleted meanwhile, and callers know
        _log.error("a stored object is damaged: %s", why, extra={"object": key, **block})
    error = DataLoss("Stored bytes of this file are missing or damaged.")
    error.add_note(f"object: {key}, {why}")
    return error


def _unavailable(what: str, key: str, error: Exception) -> Unavailable:
    _log.warning("the store could not %s an object", what, extra={"object": key, "error": type(error).__name__})
    return Unavailable("The storage of this service can't be reached right now.")
