"""Reading of parts, for every store: ranges of objects are fetched, compared with their checksums, and cut."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence

from isal.isal_zlib import crc32

from batchyard.service.domain.records import Part
from batchyard.service.objects import checksums
from batchyard.service.objects.base import ObjectDamaged, PieceBytes

Fetch = Callable[[str, int, int], Awaitable[bytes]]
"""The bytes of an object from a start to an end. Raises ObjectMissing, ObjectDamaged for less, Unavailable."""

_HELD_FOR = 64 << 10  # bytes of a piece, for which its whole block is held: to fetch it again would cost more time

_log = logging.getLogger("batchyard.store")


async def read_parts(
    fetch: Fetch,
    parts: Sequence[Part],
    offset: int,
    length: int,
    piece_bytes: PieceBytes,
    *,
    fetch_bytes: int = checksums.BLOCK,
) -> AsyncIterator[bytes]:
    """Does what `ObjectStore.read` says, by fetches of `fetch_bytes` at most, a multiple of `checksums.BLOCK`.

    Where a part has checksums, whole blocks are fetched and compared, and then cut. A block of small pieces is fetched
    again piece by piece: it is not held while a reader takes its time.
    """
    if offset < 0 or length < 0 or offset + length > sum(part.size for part in parts):
        raise ValueError(f"no range of {length} bytes at {offset}")
    for part, start, end in _ranges(parts, offset, length):
        try:
            if part.sums is None:
                at = start
                while at < end:
                    stop = min(at + piece_bytes(), end)
                    yield await fetch(part.key, at, stop)
                    at = stop
                continue
            last = min(-(-end // checksums.BLOCK) * checksums.BLOCK, part.size)
            for at in range(start - start % checksums.BLOCK, last, fetch_bytes):
                fetched = await fetch(part.key, at, min(at + fetch_bytes, last))
                blocks = _intact(part.key, part.sums, at, fetched)
                for number, block in blocks:
                    first = max(start, number * checksums.BLOCK)
                    wanted = block[first - number * checksums.BLOCK : end - number * checksums.BLOCK]
                    size = piece_bytes()
                    if size >= _HELD_FOR or fetch_bytes > checksums.BLOCK:
                        for cut in range(0, len(wanted), size):
                            yield wanted[cut : cut + size]
                        continue
                    sums = {first + cut: crc32(wanted[cut : cut + size]) for cut in range(0, len(wanted), size)}
                    stop = first + len(wanted)
                    blocks.close()
                    del fetched, block, wanted
                    for cut, checksum in sums.items():
                        yield await _again(fetch, part.key, cut, min(cut + size, stop), checksum)
        except ObjectDamaged as error:
            block_of = {} if error.block is None else {"block": error.block}
            _log.error("a stored object is damaged: %s", error.why, extra={"object": error.key, **block_of})
            raise


async def _again(fetch: Fetch, key: str, start: int, end: int, checksum: int) -> bytes:
    piece = await fetch(key, start, end)
    if crc32(piece) != checksum:
        raise ObjectDamaged(key, "its bytes have changed", start // checksums.BLOCK)
    return piece


def _ranges(parts: Sequence[Part], offset: int, length: int) -> Iterator[tuple[Part, int, int]]:
    """Cuts a range of the whole into (part, start, end)."""
    for part in parts:
        end = min(offset + length, part.size)
        if offset < end:
            yield part, offset, end
            length -= end - offset
        offset = max(0, offset - part.size)


def _intact(key: str, sums: bytes, start: int, fetched: bytes) -> Generator[tuple[int, bytes]]:
    """The blocks of what was fetched from `start` on, by number. Raises ObjectDamaged before one that differs."""
    for at in range(0, len(fetched), checksums.BLOCK):
        number = (start + at) // checksums.BLOCK
        block = fetched[at : at + checksums.BLOCK]
        if not checksums.is_intact(block, number, sums):
            raise ObjectDamaged(key, "its bytes have changed", number)
        yield number, block
