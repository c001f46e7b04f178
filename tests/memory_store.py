"""An object store that is no folder: its objects are in memory, and it is asked for large ranges, as one far away."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from time import time

from batchyard.service.domain.records import Part
from batchyard.service.errors import Unavailable
from batchyard.service.objects.base import (
    KEY,
    Known,
    ObjectDamaged,
    ObjectMissing,
    ObjectStore,
    PieceBytes,
    StoredObject,
    largest,
)
from batchyard.service.objects.checksums import Checksums
from batchyard.service.objects.reading import read_parts

FETCH_BYTES = 4 << 20


class MemoryStore:
    """An `ObjectStore`. `fetches` are the ranges that were asked of it."""

    def __init__(self) -> None:
        self.fetches: list[tuple[int, int]] = []
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._away = False

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Nobody answers for it until the context ends."""
        self._away = True
        try:
            yield
        finally:
            self._away = False

    @asynccontextmanager
    async def opened(self, _: Known) -> AsyncIterator[ObjectStore]:
        """What a service opens instead of its own: the objects stay for the next one."""
        yield self

    @asynccontextmanager
    async def writer(self, key: str, *, bounded: bool = True, spare: bool = False) -> AsyncIterator["MemoryWriter"]:
        if not KEY.fullmatch(key):
            raise ValueError(f"malformed key: {key!r}")
        yield MemoryWriter(self, key)

    async def check_space(self) -> None:
        self._check()

    def read(
        self, parts: Sequence[Part], offset: int, length: int, piece_bytes: PieceBytes = largest
    ) -> AsyncIterator[bytes]:
        return read_parts(self._fetch, parts, offset, length, piece_bytes, fetch_bytes=FETCH_BYTES)

    async def delete(self, key: str) -> None:
        self._check()
        self._objects.pop(key, None)

    async def listed(self, prefix: str, before: float) -> AsyncIterator[StoredObject]:
        self._check()
        for key, (content, modified) in list(self._objects.items()):
            if key.startswith(prefix) and modified < before:
                yield StoredObject(key, len(content), modified)

    def put(self, key: str, content: bytes) -> None:
        self._check()
        self._objects[key] = content, time()

    async def _fetch(self, key: str, start: int, end: int) -> bytes:
        self._check()
        self.fetches.append((start, end))
        if key not in self._objects:
            raise ObjectMissing(key)
        found = self._objects[key][0][start:end]
        if len(found) < end - start:
            raise ObjectDamaged(key, "it is too short")
        return found

    def _check(self) -> None:
        if self._away:
            raise Unavailable("The storage of this service can't be reached right now.")


class MemoryWriter:
    """An `ObjectWriter` whose object is put in one piece, at the end."""

    def __init__(self, store: MemoryStore, key: str) -> None:
        self.size = 0
        self._store = store
        self._key = key
        self._sums = Checksums()
        self._content = bytearray()

    @property
    def part(self) -> Part:
        return Part(self._key, self.size, self._sums.value())

    def sum(self, data: bytes) -> None:
        self._sums.update(data)

    async def write(self, data: bytes | memoryview) -> None:
        if self._sums.size == self.size:
            self._sums.update(data)
        self.size += len(data)
        self._content += data

    async def commit(self) -> None:
        self._store.put(self._key, bytes(self._content))
