"""A chunk's journal: what was synced is read back whole after any damage to its tail, and a failed write is told."""

import asyncio
import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.service.datadir.disk import Disk, HasFileno
from batchyard.service.domain.records import Counts, Kind
from batchyard.service.engine.journal import Journal
from batchyard.service.engine.records import HEAD
from batchyard.service.errors import Unavailable
from batchyard.service.jsonl.results import Failure, Result, Tokens, result, result_id

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
    for one in results:
        await journal.append(one)
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
    for one in results:
        counts += Counts(int(one.kind is Kind.COMPLETED), int(one.kind is Kind.FAILED), *one.tokens)
    ordered = sorted(results)
    return [one.line for one in ordered], b"".join(one.text for one in ordered), counts


async def test_texts_come_in_the_order_of_the_input_and_by_kind(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "a.journal", Disk(), [])
    for one in reversed(RESULTS):
        await journal.append(one)
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
        ends = [whole.index(one.text) + len(one.text) for one in RESULTS]
        assert asyncio.run(adopted(folder, [path])) == expected(RESULTS[: sum(end <= same for end in ends)])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_costs_its_record_alone(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "old.journal"
        asyncio.run(write(path, RESULTS))
        damaged = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(damaged) - 1), label="at")
        damaged[at] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        ends = [path.read_bytes().index(one.text) + len(one.text) for one in RESULTS]
        path.write_bytes(damaged)
        hit = next(n for n, end in enumerate(ends) if at < end)
        assert asyncio.run(adopted(folder, [path])) == expected(RESULTS[:hit] + RESULTS[hit + 1 :])


async def opened_after(folder: Path, damage: Callable[[bytearray, list[int]], None]) -> Journal:
    """A journal that adopts one of real results, which `damage` changed: it is told where each record starts."""
    found = [result("batch_1", line, f"c-{line}", Failure("x", "y" * 50)) for line in range(1, 6)]
    path = folder / "old.journal"
    await write(path, found)
    content = bytearray(path.read_bytes())
    damage(content, [content.index(one.text) - HEAD.size for one in found])
    path.write_bytes(content)
    journal = await Journal.open(folder / "new.journal", Disk(), [path])
    await journal.close()
    return journal


def lines_of(journal: Journal) -> list[int]:
    return [line for line in range(1, 6) if line in journal]


@pytest.mark.parametrize("part", ["line", "length", "id", "text", "newline"])
async def test_a_damaged_record_in_the_midst_says_which_line_it_was(
    tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    def damage(content: bytearray, starts: list[int]) -> None:
        where = {"length": 4, "line": 8, "id": HEAD.size + 20, "text": HEAD.size + 120}
        content[starts[2] + where[part] if part in where else starts[3] - 1] ^= 64

    journal = await opened_after(tmp_path, damage)
    (gap,) = journal.gaps
    assert lines_of(journal) == [1, 2, 4, 5]
    assert 3 in gap.lines or result_id("batch_1", 3) in gap.ids
    logged = [record for record in caplog.records if "journal is damaged" in record.message]
    assert [record.__dict__["journal"] for record in logged] == ["old.journal"]


async def test_records_that_were_overwritten_are_one_gap(tmp_path: Path) -> None:
    def damage(content: bytearray, starts: list[int]) -> None:
        content[starts[1] + 3 : starts[3] + 40] = b"?" * (starts[3] + 40 - starts[1] - 3)

    journal = await opened_after(tmp_path, damage)
    assert lines_of(journal) == [1, 5]
    assert [gap.lines for gap in journal.gaps] == [frozenset()]


async def test_a_torn_tail_is_no_gap(tmp_path: Path) -> None:
    def damage(content: bytearray, starts: list[int]) -> None:
        del content[starts[4] + 30 :]

    journal = await opened_after(tmp_path, damage)
    assert lines_of(journal) == [1, 2, 3, 4]
    assert journal.gaps == []


async def test_a_damaged_megabyte_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "old.journal"
    found = [result("batch_1", line, "c", Failure("x", "y" * size)) for line, size in ((1, 9), (2, 3 << 20), (3, 9))]
    await write(path, found)
    with path.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"z")
    lines, text, _ = await adopted(tmp_path, [path])
    assert (lines, text) == ([1, 3], found[0].text + found[2].text)


async def test_a_result_that_changed_on_the_disk_is_not_read_back(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "1.journal", Disk(), [])
    for one in RESULTS:
        await journal.append(one)
    await journal.drain()
    content = bytearray(journal.path.read_bytes())
    content[content.index(RESULTS[3].text) + 3] ^= 1
    journal.path.write_bytes(content)
    with pytest.raises(Unavailable):
        list(journal.texts(*Kind))
    await journal.close()
    assert await adopted(tmp_path, [journal.path]) == expected(RESULTS[:3] + RESULTS[4:])


async def test_several_journals_are_adopted_as_one(tmp_path: Path) -> None:
    first, second = tmp_path / "1.journal", tmp_path / "2.journal"
    await write(first, RESULTS[:3])
    await write(second, RESULTS[2:])
    assert await adopted(tmp_path, [first, second]) == expected(RESULTS)


async def test_what_was_adopted_and_what_is_appended_are_one(tmp_path: Path) -> None:
    await write(tmp_path / "1.journal", RESULTS[:2])
    journal = await Journal.open(tmp_path / "2.journal", Disk(), [tmp_path / "1.journal"])
    for one in RESULTS[2:]:
        await journal.append(one)
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
