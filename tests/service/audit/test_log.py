"""The audit log's file: every line gets there once and whole, whatever happens to the file meanwhile."""

import asyncio
import os
import resource
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.harness import until

from batchyard.service.audit.log import AuditError, AuditLog, opened
from batchyard.service.errors import Unavailable


def lines(start: int, end: int) -> list[bytes]:
    return [b"%06d %s\n" % (number, b"x" * 100) for number in range(start, end)]


async def appended(log: AuditLog, more: Sequence[bytes]) -> None:
    for line in more:
        await log.ready()
        log.append(line)


async def holding(path: Path, content: bytes) -> None:
    """Waits until the file holds that."""

    async def look() -> bytes:
        return path.read_bytes() if path.exists() else b""

    await until(look, lambda found: found == content)


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file of this process may be larger: writing fails as on a full disk, in the middle of a line too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def told_off(log: AuditLog) -> None:
    """Waits until nobody is let through."""

    async def look() -> bool:
        try:
            await log.ready()
        except Unavailable:
            return True
        return False

    await until(look, bool)


async def test_it_is_this_users_alone_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for start in (0, 50):
        async with opened(path, lambda _: None) as log:
            await appended(log, lines(start, start + 50))
    assert path.read_bytes() == b"".join(lines(0, 100))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_line_that_a_crash_cut_off_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"whole\nha")
    async with opened(path, lambda _: None) as log:
        log.append(b"next\n")
    assert path.read_bytes() == b"whole\nha\nnext\n"


async def test_a_file_that_is_moved_away_is_left_and_another_begun(tmp_path: Path) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    async with opened(path, lambda _: None) as log:
        await appended(log, lines(0, 10))
        await holding(path, b"".join(lines(0, 10)))
        path.rename(old)
        await appended(log, lines(10, 20))
        await holding(path, b"".join(lines(10, 20)))
        path.unlink()
        await appended(log, lines(20, 30))
    assert (old.read_bytes(), path.read_bytes()) == (b"".join(lines(0, 10)), b"".join(lines(20, 30)))


async def test_a_full_disk_lets_nobody_through_and_loses_no_line(tmp_path: Path) -> None:
    path, failing = tmp_path / "audit.jsonl", list[bool]()
    async with opened(path, failing.append) as log:
        with full_at(1000):
            log.append(b"".join(lines(0, 30)))
            await told_off(log)
            assert path.stat().st_size == 1000
            log.append(b"".join(lines(30, 40)))
        await until(lambda: asyncio.sleep(0, failing), lambda seen: seen == [True, False])
        await appended(log, lines(40, 50))
    assert path.read_bytes() == b"".join(lines(0, 50))


async def test_a_full_file_that_is_moved_away_leaves_its_half_line_behind(tmp_path: Path) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "old"
    async with opened(path, lambda _: None) as log:
        with full_at(1000):
            log.append(b"".join(lines(0, 15)))
            await told_off(log)
            path.rename(old)
            await holding(path, b"".join(lines(9, 15)))
    assert old.read_bytes() == b"".join(lines(0, 15))[:1000]


async def test_what_can_not_be_written_by_the_end_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path, lambda _: None) as log:
        path.unlink()
        path.mkdir()
        log.append(b"one\n")
        await told_off(log)
        log.append(b"two\n")
    (record,) = [record for record in caplog.records if record.message == "lines of the audit log were lost"]
    assert vars(record)["lines"] == 2


async def test_callers_wait_while_too_many_lines_are_held(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path, lambda _: None, most=1) as log:
        await asyncio.gather(*(appended(log, [line]) for line in lines(0, 300)))
    assert sorted(path.read_bytes().splitlines(keepends=True)) == lines(0, 300)


async def test_nobody_waits_for_ever_for_a_disk_that_hangs(tmp_path: Path) -> None:
    path, go_on = tmp_path / "audit.jsonl", threading.Event()

    def hang(failing: bool) -> None:
        """Holds the writing thread up, once it could write again."""
        assert failing or go_on.wait(30)

    async with opened(path, hang, most=1, wait_seconds=0.05) as log:
        path.unlink()
        path.mkdir()
        log.append(b"one\n")
        await told_off(log)
        try:
            path.rmdir()
            await until(lambda: asyncio.sleep(0, path), lambda found: found.is_file())
            await told_off(log)
            assert log.behind
        finally:
            go_on.set()
        await holding(path, b"one\n")
        await until(lambda: asyncio.sleep(0, log), lambda found: not found.behind)
        await log.ready()


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "no folder above"])
async def test_one_that_can_not_be_opened_is_no_log(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.jsonl"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path = path / "audit.jsonl"
    with pytest.raises(AuditError, match=r"^The audit log .*audit\.jsonl can't be opened: "):
        async with opened(path, lambda _: None):
            pass
