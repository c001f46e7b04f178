"""How much is asked of a store, by how large a fetch may be."""

import os

import pytest
from tests.memory_store import FETCH_BYTES, MemoryStore

from batchyard.service.objects.checksums import BLOCK

SIZE = 2 * FETCH_BYTES + BLOCK + 1000


@pytest.mark.parametrize(
    ("offset", "length", "fetches"),
    [
        (0, SIZE, [(0, FETCH_BYTES), (FETCH_BYTES, 2 * FETCH_BYTES), (2 * FETCH_BYTES, SIZE)]),
        (BLOCK + 1, 1, [(BLOCK, 2 * BLOCK)]),
        (BLOCK - 1, 2, [(0, 2 * BLOCK)]),
        (BLOCK + 5, FETCH_BYTES, [(BLOCK, FETCH_BYTES + BLOCK), (FETCH_BYTES + BLOCK, FETCH_BYTES + 2 * BLOCK)]),
        (SIZE - 1, 1, [(SIZE - 1000, SIZE)]),
        (SIZE, 0, []),
    ],
)
async def test_a_range_is_fetched_in_few_large_pieces_of_whole_blocks(
    offset: int, length: int, fetches: list[tuple[int, int]]
) -> None:
    store, content = MemoryStore(), os.urandom(SIZE)
    async with store.writer("files/file-1") as writer:
        await writer.write(content)
        await writer.commit()
    got = b"".join([piece async for piece in store.read([writer.part], offset, length)])
    assert got == content[offset : offset + length]
    assert store.fetches == fetches
