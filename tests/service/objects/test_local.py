"""The file store: nothing half-written stays, nothing acknowledged is lost, no stream ends short."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults import PowerCut

from batchyard.service.datadir.aside import Aside
from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import Part
from batchyard.service.errors import DataLoss, StorageFull, Unavailable
from batchyard.service.objects.base import WRITE_BYTES as BLOCK
from batchyard.service.objects.local import FileStore
from batchyard.service.objects.startup_sweep import sweep


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore(root, Disk())


def names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


async def put(store: FileStore, key: str, content: bytes, *, piece: int = 1 << 30) -> Part:
    async with store.writer(key) as writer:
        for at in range(0, len(content), piece):
            await writer.write(content[at : at + piece])
        await writer.commit()
        return writer.part


async def joined(store: FileStore, parts: Sequence[Part], offset: int, length: int, piece: int = 1024) -> bytes:
    return b"".join([data async for data in store.read(parts, offset, length, lambda: piece)])


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
@pytest.mark.parametrize("piece", [1000, BLOCK, 3 * BLOCK])
async def test_committed_object_holds_what_was_written(store: FileStore, root: Path, size: int, piece: int) -> None:
    content = os.urandom(size)
    async with store.writer("files/file-1") as writer:
        for at in range(0, size, piece):
            await writer.write(memoryview(content)[at : at + piece])
        assert writer.size == size
        await writer.commit()
    assert names(root) == ["files/file-1"]
    assert (root / "files" / "file-1").read_bytes() == content


@pytest.mark.parametrize("size", [0, 1, 4 * BLOCK])
async def test_leaving_without_commit_leaves_nothing(store: FileStore, root: Path, size: int) -> None:
    async with store.writer("files/file-1") as writer:
        await writer.write(bytes(size))
    assert names(root) == []


async def test_error_in_the_context_passes_and_leaves_nothing(store: FileStore, root: Path) -> None:
    async def write() -> None:
        async with store.writer("files/file-1") as writer:
            await writer.write(bytes(4 * BLOCK))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write()
    assert names(root) == []


@pytest.mark.parametrize("written", range(5))
async def test_writer_cancelled_while_it_writes_leaves_nothing(store: FileStore, root: Path, written: int) -> None:
    reached = asyncio.Event()

    async def write() -> None:
        async with store.writer("files/file-1") as writer:
            for number in range(1000):
                if number == written:
                    reached.set()
                await writer.write(bytes(BLOCK))

    task = asyncio.create_task(write())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(root) == []


class Hesitant(Disk):
    """Says when it was asked to sync an object, and waits for leave."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asked = asyncio.Event()
        self.leave = asyncio.Event()
        self._loop = loop

    def sync_file(self, path: Path, *, site: str) -> None:
        self._loop.call_soon_threadsafe(self.asked.set)
        asyncio.run_coroutine_threadsafe(self.leave.wait(), self._loop).result()


async def test_writer_cancelled_while_it_syncs_waits_and_leaves_nothing(root: Path) -> None:
    disk = Hesitant(asyncio.get_running_loop())
    task = asyncio.create_task(put(FileStore(root, disk), "files/file-1", bytes(4 * BLOCK)))
    await disk.asked.wait()
    task.cancel()
    _, waiting = await asyncio.wait({task}, timeout=0.2)
    assert waiting, "the object was removed while it was being synced"
    disk.leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(root) == []


@pytest.mark.parametrize("key", ["", "files", "files/", "/etc/passwd", "files/../x", "files/a/b", "files/a#1"])
async def test_malformed_key_is_refused(store: FileStore, key: str) -> None:
    with pytest.raises(ValueError, match="malformed key"):
        await put(store, key, b"x")


SITES = {"store.root": 1, "files.folder": 1, "files.object": 1, "files.entry": 1}


async def test_committed_object_survives_a_power_cut(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    disk = PowerCut(tmp_path / "data")
    await put(FileStore(tmp_path / "data" / "store", disk), "files/file-1", b"hello")
    disk.survivors(tmp_path / "after")
    assert (tmp_path / "after" / "store" / "files" / "file-1").read_bytes() == b"hello"
    assert disk.sites == SITES


@pytest.mark.parametrize("site", SITES)
async def test_commit_without_one_of_its_syncs_is_lost(tmp_path: Path, site: str) -> None:
    (tmp_path / "data").mkdir()
    disk = PowerCut(tmp_path / "data", without={site})
    await put(FileStore(tmp_path / "data" / "store", disk), "files/file-1", b"hello")
    disk.survivors(tmp_path / "after")
    path = tmp_path / "after" / "store" / "files" / "file-1"
    assert not path.exists() or path.read_bytes() == b""


@given(data=st.data(), contents=st.lists(st.binary(max_size=40), max_size=5), piece=st.integers(1, 50))
def test_range_over_parts_is_a_slice_of_their_concatenation(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, contents: list[bytes], piece: int
) -> None:
    whole = b"".join(contents)
    offset = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - offset))
    root = tmp_path_factory.mktemp("range")
    (root / "segments").mkdir()
    for number, content in enumerate(contents):
        (root / "segments" / str(number)).write_bytes(content)
    parts = [Part(f"segments/{number}", len(content), _sums(content)) for number, content in enumerate(contents)]
    got = asyncio.run(joined(FileStore(root, Disk()), parts, offset, length, piece))
    assert got == whole[offset : offset + length]


def _sums(content: bytes) -> bytes | None:
    """Of every second object, as of a registry that has older ones."""
    return zlib.crc32(content).to_bytes(4, "big") if len(content) % 2 else None


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 6), (5, 1), (0, -1)])
async def test_range_outside_of_the_whole_is_refused(store: FileStore, offset: int, length: int) -> None:
    part = await put(store, "files/file-1", b"hello")
    with pytest.raises(ValueError, match="no range"):
        await joined(store, [part], offset, length)


async def test_missing_object_is_data_loss(store: FileStore) -> None:
    with pytest.raises(DataLoss, match="missing or damaged"):
        await joined(store, [Part("files/file-1", 5)], 0, 5)


@pytest.mark.parametrize("left", [0, 1, 4])
@pytest.mark.parametrize("piece", [1, 2, 5])
async def test_short_object_is_data_loss(store: FileStore, root: Path, left: int, piece: int) -> None:
    part = await put(store, "files/file-1", b"hello")
    os.truncate(root / part.key, left)
    with pytest.raises(DataLoss, match="missing or damaged"):
        await joined(store, [part], 0, 5, piece)


async def test_deleted_object_is_gone_and_deleting_again_is_fine(store: FileStore, root: Path) -> None:
    part = await put(store, "files/file-1", b"hello")
    await store.delete(part.key)
    await store.delete(part.key)
    assert names(root) == []


@pytest.mark.parametrize("instead", ["nothing", "a file", "an empty folder"])
@pytest.mark.parametrize("known", [False, True], ids=["in a new folder", "in one that was there"])
async def test_store_whose_disk_went_away_takes_and_removes_nothing(
    store: FileStore, root: Path, instead: str, known: bool
) -> None:
    """Also where its mount point could take the object, which nobody would see again."""
    if known:
        await put(store, "files/file-0", b"before")
    away = root.rename(root.with_name("away"))
    if instead == "a file":
        root.touch()
    elif instead == "an empty folder":
        root.mkdir()
    for work in (put(store, "files/file-1", b"hello"), store.delete("files/file-0"), listed(store)):
        with pytest.raises(Unavailable, match="can't be reached"):
            await work
    assert names(root) == []
    shutil.rmtree(root, ignore_errors=True)
    root.unlink(missing_ok=True)
    away.rename(root)
    assert names(root) == (["files/file-0"] if known else [])


async def listed(store: FileStore) -> list[str]:
    return [one.key async for one in store.listed("", 1e18)]


async def test_folder_in_which_nothing_can_be_changed_is_unavailable(store: FileStore, root: Path) -> None:
    part = await put(store, "files/file-1", b"hello")
    (root / "files").rename(root / "away")
    (root / "files").write_bytes(b"not a folder")
    for work in (put(store, "files/file-2", b"hello"), store.delete(part.key)):
        with pytest.raises(Unavailable):
            await work


async def test_unfinished_objects_and_strangers_are_not_listed(store: FileStore, root: Path) -> None:
    part = await put(store, "files/file-1", b"hello")
    for stranger in ("files/file-2#1", "files/.hidden", "readme"):
        (root / stranger).write_bytes(b"x")
    (root / "files/folder").mkdir()
    assert await listed(store) == [part.key]


async def test_what_a_failed_removal_leaves_is_counted_until_it_is_gone(
    store: FileStore, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with store.writer("files/file-1"):
        (root / "files/file-1").mkdir()  # can't be unlinked
    assert "could not remove" in caplog.text
    assert store.room.held == 0
    async with store.writer("files/file-2") as writer:
        await writer.write(b"hello")
        (root / "files/file-2").mkdir()
    assert store.room.held == 5


class Full(Disk):
    """Has no space left when the content reaches it, as a disk with delayed allocation."""

    def sync_file(self, path: Path, *, site: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


async def test_disk_that_is_full_at_the_sync_is_storage_full(root: Path) -> None:
    with pytest.raises(StorageFull, match="no space left"):
        await put(FileStore(root, Full()), "files/file-1", b"hello")
    assert names(root) == []


def run(program: str, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PREAMBLE + program, str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


PREAMBLE = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from batchyard.service.datadir.disk import Disk
from batchyard.service.errors import StorageFull
from batchyard.service.objects.local import FileStore
root = Path(sys.argv[1])
store = FileStore(root, Disk())
piece = bytes(256 * 1024)
"""

TOO_LARGE = """
async def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        async with store.writer("files/file-1") as writer:
            for _ in range(int(sys.argv[2])):
                await writer.write(piece)
            await writer.commit()
    except StorageFull as error:
        print(error.message, os.listdir(root / "files"))
asyncio.run(main())
"""

KILLED = """
async def main():
    async with store.writer("files/file-1") as writer:
        for _ in range(16):
            await writer.write(piece)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""

LARGE = """
async def main():
    async with store.writer("files/file-1") as writer:
        await writer.write(piece)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(800):
            await writer.write(piece)
        await writer.commit()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
asyncio.run(main())
"""


@pytest.mark.parametrize("pieces", [5, 16], ids=["noticed by the commit", "noticed by a write"])
def test_file_that_the_disk_cannot_take_is_storage_full(root: Path, pieces: int) -> None:
    done = run(TOO_LARGE, root, str(pieces))
    assert (done.stdout, done.stderr) == ("The service has no space left to store this. []\n", "")


async def test_sweep_removes_what_a_killed_process_left(root: Path) -> None:
    assert run(KILLED, root).returncode == -9
    assert names(root) == ["files/file-1#1"]

    async def known(keys: Sequence[str]) -> set[str]:
        return set(keys)

    await sweep(FileStore(root, Disk()), known, Aside(root.parent / "aside", Disk()))
    assert names(root.parent) == []


def test_writing_200_mb_takes_constant_memory(root: Path) -> None:
    done = run(LARGE, root)
    assert done.stderr == ""
    assert int(done.stdout) < 16 * 1024
