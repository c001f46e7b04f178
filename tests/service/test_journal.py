"""A chunk's journal: what was synced is read back whole after any damage to its tail, and a failed write is told."""

import asyncio
import errno
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.service.disk import Disk, HasFileno
from batchyard.service.engine.journal import Journal
from batchyard.service.engine.results import Kind, Result, Tokens
from batchyard.service.registry.records import Counts

RESULTS = [
    Result(line, kind, Tokens(line, 1, 2, 3), b'{"line":%d,"pad":"%s"}\n' % (line, b"x" * line))
    for line, kind in [(1, Kind.COMPLETED), (2, Kind.FAILED), (3, Kind.NOT_RUN), (4, Kind.COMPLETED), (70, Kind.FAILED)]
]


class FullDisk(Disk):
    """Has no space for a journal's data from the moment that `full` is set."""

    full = False

    def sync_data(self, file: HasFileno, *, site: str) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().sync_data(file, site=site)


class WaitingDisk(Disk):
    """Says when it was asked to sync, and does it when it is told."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def sync_data(self, file: HasFileno, *, site: str) -> None:
        self.reached.set()
        self.go_on.wait()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: the system itself then writes less than it is given."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def write(path: Path, results: Sequence[Result]) -> None:
    journal = await Journal.open(path, Disk(), [])
    for result in results:
        await journal.append(result)
    await journal.drain()
    await journal.close()


async def adopted(folder: Path, earlier: Sequence[Path]) -> tuple[list[int], bytes, Counts]:
    """Lines, all texts and counts of a new journal after `earlier`; all those must be gone."""
    journal = await Journal.open(folder / "new.journal", Disk(), earlier)
    try:
        assert not any(path.exists() for path in earlier)
        lines = [line for line in range(1, 100) if line in journal]
        return lines, b"".join(journal.texts(*Kind)), journal.counts
    finally:
        await journal.close()


def expected(results: Sequence[Result]) -> tuple[list[int], bytes, Counts]:
    counts = Counts()
    for result in results:
        counts += Counts(int(result.kind is Kind.COMPLETED), int(result.kind is Kind.FAILED), *result.tokens)
    ordered = sorted(results)
    return [result.line for result in ordered], b"".join(result.text for result in ordered), counts


async def test_texts_come_in_the_order_of_the_input_and_by_kind(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "a.journal", Disk(), [])
    for result in reversed(RESULTS):
        await journal.append(result)
    await journal.drain()
    assert b"".join(journal.texts(Kind.COMPLETED)) == RESULTS[0].text + RESULTS[3].text
    assert b"".join(journal.texts(Kind.FAILED, Kind.NOT_RUN)) == b"".join(RESULTS[i].text for i in (1, 2, 4))
    assert journal.counts == expected(RESULTS)[2]
    await journal.close()


async def test_an_empty_journal_has_no_texts(tmp_path: Path) -> None:
    await write(tmp_path / "a.journal", [])
    assert await adopted(tmp_path, [tmp_path / "a.journal"]) == ([], b"", Counts())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_tail_costs_only_the_records_it_touches(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "old.journal"
        asyncio.run(write(path, RESULTS))
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)), label="cut")
        tail = data.draw(st.one_of(st.binary(max_size=80), st.integers(0, 80).map(bytes)), label="tail")
        path.write_bytes(whole[:cut] + tail)
        same = next((at for at, byte in enumerate(tail, cut) if whole[at : at + 1] != bytes([byte])), cut + len(tail))
        ends = [whole.index(result.text) + len(result.text) for result in RESULTS]
        assert asyncio.run(adopted(folder, [path])) == expected(RESULTS[: sum(end <= same for end in ends)])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_costs_its_record_and_what_follows(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "old.journal"
        asyncio.run(write(path, RESULTS))
        damaged = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(damaged) - 1), label="at")
        damaged[at] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        ends = [path.read_bytes().index(result.text) + len(result.text) for result in RESULTS]
        path.write_bytes(damaged)
        assert asyncio.run(adopted(folder, [path])) == expected(RESULTS[: sum(end <= at for end in ends)])


async def test_several_journals_are_adopted_as_one(tmp_path: Path) -> None:
    first, second = tmp_path / "1.journal", tmp_path / "2.journal"
    await write(first, RESULTS[:3])
    await write(second, RESULTS[2:])
    assert await adopted(tmp_path, [first, second]) == expected(RESULTS)


async def test_what_was_adopted_and_what_is_appended_are_one(tmp_path: Path) -> None:
    await write(tmp_path / "1.journal", RESULTS[:2])
    journal = await Journal.open(tmp_path / "2.journal", Disk(), [tmp_path / "1.journal"])
    for result in RESULTS[2:]:
        await journal.append(result)
    await journal.drain()
    await journal.close()
    assert await adopted(tmp_path, [tmp_path / "2.journal"]) == expected(RESULTS)


async def test_a_failed_sync_surfaces_and_loses_nothing_that_was_durable(tmp_path: Path) -> None:
    disk = FullDisk()
    journal = await Journal.open(tmp_path / "1.journal", disk, [])
    await journal.append(RESULTS[0])
    await journal.drain()
    disk.full = True
    await journal.append(RESULTS[1])
    with pytest.raises(OSError, match="No space left"):
        await journal.drain()
    assert journal.counts == expected(RESULTS[:1])[2]
    await journal.close()
    lines, _, _ = await adopted(tmp_path, [tmp_path / "1.journal"])
    assert 1 in lines


async def test_a_journal_that_failed_takes_nothing_more(tmp_path: Path) -> None:
    disk = FullDisk()
    journal = await Journal.open(tmp_path / "1.journal", disk, [])
    disk.full = True
    await journal.append(RESULTS[0])
    with pytest.raises(OSError, match="No space left"):
        await journal.drain()
    disk.full = False
    with pytest.raises(OSError, match="No space left"):
        await journal.append(RESULTS[1])
    with pytest.raises(OSError, match="No space left"):
        await journal.drain()
    await journal.close()


async def test_a_write_that_the_system_cuts_short_surfaces(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "1.journal", Disk(), [])
    await journal.append(RESULTS[0])
    await journal.drain()
    size = (tmp_path / "1.journal").stat().st_size
    with files_of_at_most(size + 10):
        await journal.append(RESULTS[1])
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            await journal.drain()
    await journal.close()
    assert await adopted(tmp_path, [tmp_path / "1.journal"]) == expected(RESULTS[:1])


async def test_adopting_onto_a_full_disk_fails_and_keeps_the_earlier_journal(tmp_path: Path) -> None:
    earlier = tmp_path / "1.journal"
    await write(earlier, RESULTS)
    with files_of_at_most(earlier.stat().st_size - 1), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        await Journal.open(tmp_path / "2.journal", Disk(), [earlier])
    assert await adopted(tmp_path, [earlier, tmp_path / "2.journal"]) == expected(RESULTS)


async def test_an_opening_that_is_cancelled_leaves_no_file_open(tmp_path: Path) -> None:
    disk = WaitingDisk()
    opening = asyncio.create_task(Journal.open(tmp_path / "1.journal", disk, []))
    await asyncio.to_thread(disk.reached.wait)
    opening.cancel()
    await asyncio.sleep(0)
    disk.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    held = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert str((tmp_path / "1.journal").resolve()) not in held


async def test_a_removed_journal_is_gone(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "1.journal", Disk(), [])
    await journal.close()
    journal.remove()
    journal.remove()
    assert not list(tmp_path.iterdir())
