"""What the service asks of a store of immutable objects, wherever that keeps them.

A key is a folder and a name, `files/file-abc`; it is used once. What can go wrong:

    StorageFull         the store takes no more
    DataLoss
     +- ObjectMissing   the store says that it has no such object
     +- ObjectDamaged   ... or fewer bytes of it than were committed, or others
    Unavailable         anything else, which may pass: nothing is taken for lost that a store could not be asked for
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from batchyard.service.domain.records import Part
from batchyard.service.errors import DataLoss

WRITE_BYTES = 512 << 10
"""How much it is best to write at once: pieces of less are gathered, and copied for that."""
PIECE_BYTES = 256 << 10
"""The largest piece that a read hands on, unless another size is asked for."""

PieceBytes = Callable[[], int]
"""Says how many bytes the next piece may have; asked again and again."""

KEY = re.compile(r"[a-z]+/[A-Za-z0-9](?:[A-Za-z0-9._:-]*[A-Za-z0-9])?")
"""The form of a key."""
_LOST = "Stored bytes of this file are missing or damaged."


def largest() -> int:
    """For a reader who never stops."""
    return PIECE_BYTES


class ObjectMissing(DataLoss):
    """There is no object `key`. Where one was deleted meanwhile, that is as it should be."""

    def __init__(self, key: str) -> None:
        super().__init__(_LOST)
        self.add_note(f"object: {key}, it is missing")


class ObjectDamaged(DataLoss):
    """The object `key` is not what was committed; `block` is the number of the first block that differs, if known."""

    def __init__(self, key: str, why: str, block: int | None = None) -> None:
        super().__init__(_LOST)
        self.key, self.why, self.block = key, why, block
        self.add_note(f"object: {key}, {why}")


class StoredObject(NamedTuple):
    """A whole object in a store: its size in bytes, and when it was written, in Unix seconds."""

    key: str
    size: int
    modified: float


class ObjectWriter(Protocol):
    """One object on its way. `size` is the number of bytes so far, `part` the object as it is so far."""

    size: int

    @property
    def part(self) -> Part: ...

    def sum(self, data: bytes) -> None:
        """Makes the checksums of what is the next to be written, in any thread; `write` then need not."""

    async def write(self, data: bytes | memoryview) -> None:
        """Appends a piece of any size. Raises StorageFull, Unavailable."""

    async def commit(self) -> None:
        """Ends the object: when this returns, it is whole and durable under its key. Raises StorageFull, Unavailable.

        A store that takes no key twice, and is asked again after an answer was lost, may find this very object: that is
        a success.
        """


class ObjectStore(Protocol):
    """Immutable objects, each visible as a whole or not at all."""

    def writer(
        self, key: str, *, bounded: bool = True, spare: bool = False
    ) -> AbstractAsyncContextManager[ObjectWriter]:
        """Writes the object `key`, which must be new. Leaving without `commit` leaves no trace of it.

        `bounded` says whether it counts against what the store may hold, `spare` whether it may take of the space that
        is kept for results. Raises StorageFull, Unavailable, ValueError for a malformed key.
        """

    async def check_space(self) -> None:
        """Raises StorageFull where not even one byte more fits."""

    def read(
        self, parts: Sequence[Part], offset: int, length: int, piece_bytes: PieceBytes = largest
    ) -> AsyncIterator[bytes]:
        """Reads `length` bytes from `offset` of the parts' concatenation, in pieces of at most what `piece_bytes` says.

        No byte of a block that is not as its part's checksums say is handed on. Raises ObjectMissing, ObjectDamaged,
        Unavailable, ValueError for a range outside of the whole. See `reading.read_parts`, which does most of it.
        """

    async def delete(self, key: str) -> None:
        """Removes an object; one that is missing is fine. Raises Unavailable where that is not sure."""

    def listed(self, prefix: str, before: float) -> AsyncIterator[StoredObject]:
        """All objects whose key begins with `prefix` and that were written before a time, in Unix seconds.

        They come in any order. What is written or deleted meanwhile may be among them or not. Raises Unavailable where
        it can't be all.
        """


Known = Callable[[Sequence[str]], Awaitable[set[str]]]
"""Returns those of some keys, 500 at most, that somebody refers to."""

OpenStore = Callable[[Known], AbstractAsyncContextManager[ObjectStore]]
"""Opens the service's store and puts it in order; `Known` tells what the registry names."""
