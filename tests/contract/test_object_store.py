"""What every object store does alike: an object is there as a whole or not at all, and called lost only where it is.

What only the local one has, its folder, its syncs and its start, is in `tests/service/objects/`.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import time

import pytest
from tests.contract.stores import STORES, StoreSubject

from batchyard.service.domain.records import Part
from batchyard.service.errors import FailedPrecondition, Unavailable
from batchyard.service.objects.base import WRITE_BYTES, ObjectDamaged, ObjectMissing, ObjectStore
from batchyard.service.objects.checksums import BLOCK, Checksums
from batchyard.service.objects.sweep import AGE_SECONDS, MOST_UNKNOWN, sweep

KEY = "files/file-1"
LARGE = 18 * BLOCK + 1000  # more than a store far away is asked for at once
LATER = 3600.0


@pytest.fixture(params=[pytest.param(subject, id=subject.name) for subject in STORES])
def subject(request: pytest.FixtureRequest) -> StoreSubject:
    found: StoreSubject = request.param
    return found


@pytest.fixture
def store(subject: StoreSubject, tmp_path: Path) -> ObjectStore:
    return subject.new(tmp_path)


@pytest.fixture
def unreachable(subject: StoreSubject, store: ObjectStore) -> Callable[[], AbstractContextManager[None]]:
    return lambda: subject.unreachable(store)


async def put(store: ObjectStore, key: str, content: bytes, *, piece: int = 1 << 30) -> Part:
    async with store.writer(key) as writer:
        for at in range(0, len(content), piece):
            await writer.write(memoryview(content)[at : at + piece])
        await writer.commit()
        return writer.part


async def joined(store: ObjectStore, parts: Sequence[Part], offset: int, length: int, piece: int = 1 << 18) -> bytes:
    pieces = [data async for data in store.read(parts, offset, length, lambda: piece)]
    assert all(0 < len(one) <= piece for one in pieces)
    return b"".join(pieces)


async def keys(store: ObjectStore, prefix: str = "", before: float | None = None) -> list[str]:
    before = time() + LATER if before is None else before
    return sorted([one.key async for one in store.listed(prefix, before)])


def sums(content: bytes) -> bytes:
    made = Checksums()
    made.update(content)
    return made.value()


class TestAnObject:
    @pytest.mark.parametrize("size", [0, 1, BLOCK, WRITE_BYTES - 1, WRITE_BYTES, LARGE])
    @pytest.mark.parametrize("piece", [100_001, WRITE_BYTES, 3 * WRITE_BYTES])
    async def test_is_what_was_written(self, store: ObjectStore, size: int, piece: int) -> None:
        content = os.urandom(size)
        part = await put(store, KEY, content, piece=piece)
        assert part == Part(KEY, size, sums(content))
        assert await joined(store, [part], 0, size) == content
        assert [(one.key, one.size) async for one in store.listed("", time() + LATER)] == [(KEY, size)]

    async def test_is_summed_once_by_whoever_does_it_first(self, store: ObjectStore) -> None:
        content = os.urandom(3 * BLOCK + 1)
        async with store.writer(KEY) as writer:
            await asyncio.to_thread(writer.sum, content)
            await writer.write(content)
            assert writer.part == Part(KEY, len(content), sums(content))

    async def test_is_nowhere_before_it_is_committed(self, store: ObjectStore) -> None:
        async with store.writer(KEY) as writer:
            await writer.write(bytes(5 * WRITE_BYTES))
            assert await keys(store) == []
            with pytest.raises(ObjectMissing):
                await joined(store, [writer.part], 0, 1)
            await writer.commit()
            assert await keys(store) == [KEY]

    @pytest.mark.parametrize("size", [0, 1, 5 * WRITE_BYTES])
    async def test_that_was_not_committed_leaves_no_trace(self, store: ObjectStore, size: int) -> None:
        async with store.writer(KEY) as writer:
            await writer.write(bytes(size))
        assert await keys(store) == []
        assert await joined(store, [await put(store, KEY, b"hello")], 0, 5) == b"hello"

    async def test_whose_writer_failed_leaves_no_trace(self, store: ObjectStore) -> None:
        async def write() -> None:
            async with store.writer(KEY) as writer:
                await writer.write(bytes(5 * WRITE_BYTES))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await write()
        assert await keys(store) == []

    @pytest.mark.parametrize("turns", range(6))
    async def test_whose_writer_is_cancelled_is_whole_or_nowhere(self, store: ObjectStore, turns: int) -> None:
        task = asyncio.create_task(put(store, KEY, bytes(3 * WRITE_BYTES), piece=WRITE_BYTES))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert await keys(store) == ([KEY] if isinstance(ended, Part) else [])

    async def test_that_was_deleted_is_missing_and_may_be_deleted_again(self, store: ObjectStore) -> None:
        part, other = await put(store, KEY, b"hello"), await put(store, "files/file-2", b"other")
        for _ in range(2):
            await store.delete(part.key)
        with pytest.raises(ObjectMissing, match="missing or damaged"):
            await joined(store, [part], 0, 5)
        assert await keys(store) == [other.key]

    @pytest.mark.parametrize("key", ["", "files", "files/", "/etc/passwd", "files/../x", "files/a/b", "files/a#1"])
    async def test_has_a_well_formed_key(self, store: ObjectStore, key: str) -> None:
        with pytest.raises(ValueError, match="malformed key"):
            await put(store, key, b"x")

    async def test_goes_where_there_is_space(self, store: ObjectStore) -> None:
        await store.check_space()
        async with store.writer("segments/batch-1.0.1.output", bounded=False, spare=True) as writer:
            await writer.write(b"hello")
            await writer.commit()
        assert await keys(store, "segments/") == ["segments/batch-1.0.1.output"]


class TestAReading:
    @pytest.mark.parametrize("summed", [True, False], ids=["with checksums", "without"])
    async def test_is_a_slice_of_the_parts_one_after_another(self, store: ObjectStore, summed: bool) -> None:
        sizes = [5, 0, BLOCK, 2 * BLOCK + 1, 1, LARGE]
        contents = [os.urandom(size) for size in sizes]
        parts = [await put(store, f"segments/{number}", content) for number, content in enumerate(contents)]
        parts = parts if summed else [part._replace(sums=None) for part in parts]
        whole, length = b"".join(contents), sum(sizes)
        edges = [0, 1, 5, BLOCK, BLOCK + 5, 2 * BLOCK, 3 * BLOCK + 6, 3 * BLOCK + 7, length - 1, length]
        for start in edges:
            for end in (end for end in edges if end >= start):
                assert await joined(store, parts, start, end - start) == whole[start:end]
        assert await joined(store, parts, 3, 2 * BLOCK, 1000) == whole[3 : 2 * BLOCK + 3]

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 6), (5, 1), (0, -1)])
    async def test_outside_of_the_whole_is_refused(self, store: ObjectStore, offset: int, length: int) -> None:
        part = await put(store, KEY, b"hello")
        with pytest.raises(ValueError, match="no range"):
            await joined(store, [part], offset, length)

    @pytest.mark.parametrize("of", [None, b"----"], ids=["without checksums", "with checksums"])
    async def test_of_what_is_not_there_says_so(self, store: ObjectStore, of: bytes | None) -> None:
        with pytest.raises(ObjectMissing, match="missing or damaged"):
            await joined(store, [Part(KEY, 5, of)], 0, 5)

    async def test_of_an_object_that_is_too_short_is_damage(self, store: ObjectStore) -> None:
        part = await put(store, KEY, b"hello")
        for longer in (part._replace(size=6), part._replace(size=2 * BLOCK, sums=None)):
            with pytest.raises(ObjectDamaged, match="missing or damaged"):
                await joined(store, [longer], 0, longer.size)

    @pytest.mark.parametrize("damaged", [0, 7, 15, 16, 18])
    async def test_hands_on_no_byte_of_a_block_that_changed_and_all_before_it(
        self, store: ObjectStore, caplog: pytest.LogCaptureFixture, damaged: int
    ) -> None:
        content = os.urandom(LARGE)
        part = await put(store, KEY, content)
        said = bytearray(part.sums or b"")
        said[damaged * 4] ^= 1
        came = bytearray()

        async def read() -> None:
            async for piece in store.read([part._replace(sums=bytes(said))], 10, LARGE - 10):
                came.extend(piece)

        with pytest.raises(ObjectDamaged) as raised:
            await read()
        assert (raised.value.key, raised.value.block) == (KEY, damaged)
        assert came == content[10 : damaged * BLOCK]
        (logged,) = [record for record in caplog.records if "damaged" in record.message]
        assert (logged.__dict__["object"], logged.__dict__["block"]) == (KEY, damaged)

    async def test_is_of_as_many_bytes_as_were_committed(self, store: ObjectStore) -> None:
        """Whatever may have been appended since."""
        part = await put(store, KEY, b"hello, world")
        assert await joined(store, [part._replace(size=5, sums=sums(b"hello"))], 0, 5) == b"hello"


class TestAStoreThatCannotBeReached:
    async def test_has_lost_nothing(
        self, store: ObjectStore, unreachable: Callable[[], AbstractContextManager[None]]
    ) -> None:
        part = await put(store, KEY, b"hello")
        with unreachable():
            for one in (part, part._replace(sums=None), Part("files/file-2", 5)):
                with pytest.raises(Unavailable, match="can't be reached"):
                    await joined(store, [one], 0, 5)
        assert await joined(store, [part], 0, 5) == b"hello"

    async def test_has_deleted_nothing(
        self, store: ObjectStore, unreachable: Callable[[], AbstractContextManager[None]]
    ) -> None:
        part = await put(store, KEY, b"hello")
        with unreachable(), pytest.raises(Unavailable):
            await store.delete(part.key)
        assert await joined(store, [part], 0, 5) == b"hello"

    async def test_has_listed_nothing(
        self, store: ObjectStore, unreachable: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """An empty list would say that there is nothing."""
        await put(store, KEY, b"hello")
        with unreachable(), pytest.raises(Unavailable):
            await keys(store)
        assert await keys(store) == [KEY]

    @pytest.mark.parametrize("size", [0, 5, 5 * WRITE_BYTES])
    async def test_has_committed_nothing(
        self, store: ObjectStore, unreachable: Callable[[], AbstractContextManager[None]], size: int
    ) -> None:
        await put(store, "files/file-0", b"before")
        with unreachable(), pytest.raises(Unavailable):
            await put(store, KEY, bytes(size))
        assert await keys(store) == ["files/file-0"]
        assert await joined(store, [await put(store, KEY, b"hello")], 0, 5) == b"hello"

    async def test_keeps_what_was_begun_from_a_commit(
        self, store: ObjectStore, unreachable: Callable[[], AbstractContextManager[None]]
    ) -> None:
        async with store.writer(KEY) as writer:
            await writer.write(bytes(2 * WRITE_BYTES))
            with unreachable(), pytest.raises(Unavailable):
                await writer.commit()
        assert await keys(store) == []


class TestAList:
    async def test_has_whole_objects_by_the_beginning_of_their_key(self, store: ObjectStore) -> None:
        all_of_them = [f"files/file-{number}" for number in range(3)] + ["segments/batch-1.0.1.output"]
        for key in all_of_them:
            await put(store, key, b"x")
        assert await keys(store) == all_of_them
        assert await keys(store, "files/") == all_of_them[:3]
        assert await keys(store, "files/file-1") == ["files/file-1"]
        assert await keys(store, "seg") == all_of_them[3:]
        assert await keys(store, "nothing") == []

    async def test_has_what_was_written_before_a_time(self, store: ObjectStore) -> None:
        before = time() - LATER
        await put(store, KEY, b"x")
        assert await keys(store, before=before) == []
        (found,) = [one async for one in store.listed("", time() + LATER)]
        assert before < found.modified < time() + LATER

    async def test_may_be_of_many_and_deleted_from_on_the_way(self, store: ObjectStore) -> None:
        for number in range(600):
            await put(store, f"files/file-{number}", b"x")
        seen = set()
        async for found in store.listed("files/", time() + LATER):
            seen.add(found.key)
            await store.delete(found.key)
        assert len(seen) == 600
        assert await keys(store) == []


class TestASweep:
    """It asks of a store only what every store does."""

    async def test_removes_what_nobody_refers_to_and_nothing_else(self, store: ObjectStore) -> None:
        for number in range(120):
            await put(store, f"files/file-{number}", b"x")
        named = {f"files/file-{number}" for number in range(0, 120, 2)}
        asked: list[int] = []

        async def known(some: Sequence[str]) -> set[str]:
            asked.append(len(some))
            return named & set(some)

        assert await sweep(store, known, time() + LATER) == 60
        assert await keys(store) == sorted(named)
        assert max(asked) <= 500

    async def test_leaves_what_is_young_for_a_row_may_be_on_its_way(self, store: ObjectStore) -> None:
        await put(store, KEY, b"x")
        assert await sweep(store, _nothing_known, time() - AGE_SECONDS) == 0
        assert await keys(store) == [KEY]

    async def test_of_the_registry_of_another_store_is_refused(self, store: ObjectStore) -> None:
        for number in range(MOST_UNKNOWN + 1):
            await put(store, f"files/file-{number}", b"x")
        with pytest.raises(FailedPrecondition, match="101 stored objects of 101"):
            await sweep(store, _nothing_known, time() + LATER)
        assert len(await keys(store)) == MOST_UNKNOWN + 1


async def _nothing_known(_: Sequence[str]) -> set[str]:
    return set()
