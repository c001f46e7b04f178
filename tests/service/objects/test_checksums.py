"""Stored bytes that changed are never handed on, and what can't be read now is not taken for lost."""

import asyncio
import errno
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from obstore.store import HTTPStore

from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import Part
from batchyard.service.errors import DataLoss, Unavailable
from batchyard.service.objects.checksums import BLOCK as SUMMED
from batchyard.service.objects.local import FileStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore(root, Disk())


async def put(store: FileStore, key: str, content: bytes, *, piece: int = 1 << 30) -> Part:
    async with store.writer(key) as writer:
        for at in range(0, len(content), piece):
            await writer.write(content[at : at + piece])
        await writer.commit()
        return writer.part


async def joined(store: FileStore, parts: Sequence[Part], offset: int, length: int) -> bytes:
    return b"".join([data async for data in store.read(parts, offset, length)])


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


WHOLE = 3 * SUMMED + 1000  # bytes of an object of four blocks


@pytest.mark.parametrize("size", [0, 1, SUMMED - 1, SUMMED, SUMMED + 1, WHOLE])
@pytest.mark.parametrize("piece", [1 << 30, 100_001])
async def test_checksums_are_those_of_each_block_however_it_came(store: FileStore, size: int, piece: int) -> None:
    content = os.urandom(size)
    part = await put(store, "files/file-1", content, piece=piece)
    blocks = [content[at : at + SUMMED] for at in range(0, size, SUMMED)]
    assert part == Part("files/file-1", size, b"".join(zlib.crc32(block).to_bytes(4, "big") for block in blocks))


async def test_what_a_thread_has_summed_is_not_summed_again(store: FileStore) -> None:
    content = os.urandom(WHOLE)
    async with store.writer("files/file-1") as writer:
        await asyncio.to_thread(writer.sum, content)
        await writer.write(content)
        assert writer.part == (await put(store, "files/file-2", content))._replace(key="files/file-1")


@pytest.mark.parametrize("at", [0, SUMMED - 1, SUMMED, WHOLE - 1])
async def test_flipped_bit_is_data_loss_in_every_range_of_its_block_and_in_no_other(
    store: FileStore, root: Path, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    content = os.urandom(WHOLE)
    part = await put(store, "files/file-1", content)
    flip(root / part.key, at)
    for block in range(4):
        for offset in (block * SUMMED, block * SUMMED + 500):
            if block == at // SUMMED:
                with pytest.raises(DataLoss, match="missing or damaged"):
                    await joined(store, [part], offset, 1)
            else:
                assert await joined(store, [part], offset, 100) == content[offset : offset + 100]
    logged = [record for record in caplog.records if "damaged" in record.message]
    assert {(record.__dict__["object"], record.__dict__["block"]) for record in logged} == {(part.key, at // SUMMED)}


async def test_no_byte_of_a_damaged_block_leaves(store: FileStore, root: Path) -> None:
    content = os.urandom(WHOLE)
    part = await put(store, "files/file-1", content)
    flip(root / part.key, 2 * SUMMED - 1)
    came = bytearray()

    async def read() -> None:
        async for piece in store.read([part], 10, WHOLE - 10, lambda: 1000):
            came.extend(piece)

    with pytest.raises(DataLoss):
        await read()
    assert came == content[10:SUMMED]


@pytest.mark.parametrize("piece", [SUMMED // 16, SUMMED // 4, SUMMED // 2, SUMMED, 2 * SUMMED])
@pytest.mark.parametrize("offset", [0, 10, SUMMED - 1, SUMMED])
async def test_a_block_is_the_same_in_pieces_of_any_size(store: FileStore, piece: int, offset: int) -> None:
    content = os.urandom(WHOLE)
    part = await put(store, "files/file-1", content)
    pieces = [data async for data in store.read([part], offset, WHOLE - offset, lambda: piece)]
    assert b"".join(pieces) == content[offset:]
    assert max(map(len, pieces)) == min(piece, SUMMED)


async def test_pieces_take_another_size_from_the_next_block_on(store: FileStore) -> None:
    content = os.urandom(WHOLE)
    part = await put(store, "files/file-1", content)
    asked = iter([SUMMED, SUMMED // 16, SUMMED // 2, SUMMED])
    sizes = [len(data) async for data in store.read([part], 0, 3 * SUMMED, lambda: next(asked))]
    assert sizes == [SUMMED, *[SUMMED // 16] * 16, *[SUMMED // 2] * 2]


async def test_bytes_that_change_after_their_block_was_checked_do_not_leave(store: FileStore, root: Path) -> None:
    content = os.urandom(WHOLE)
    part = await put(store, "files/file-1", content)
    pieces = store.read([part], 0, WHOLE, lambda: SUMMED // 16)
    assert await anext(pieces) == content[: SUMMED // 16]
    flip(root / part.key, SUMMED // 8 - 1)
    with pytest.raises(DataLoss, match="missing or damaged"):
        await anext(pieces)


async def test_longer_object_is_read_as_it_was_said(store: FileStore, root: Path) -> None:
    part = await put(store, "files/file-1", b"hello")
    (root / part.key).write_bytes(b"hello, world")
    assert await joined(store, [part], 0, 5) == b"hello"


async def test_object_from_before_checksums_is_read_as_it_is(store: FileStore, root: Path) -> None:
    part = await put(store, "files/file-1", b"hello")
    flip(root / part.key, 0)
    assert await joined(store, [part._replace(sums=None)], 0, 5) == b"iello"


@pytest.mark.parametrize("status", [500, 503, 403])
async def test_store_that_fails_without_a_number_is_unavailable(root: Path, status: int) -> None:
    """What it doesn't know it has not lost."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        remote = HTTPStore.from_url(address, client_options={"allow_http": True}, retry_config={"max_retries": 0})
        with pytest.raises(Unavailable, match="can't be reached"):
            await joined(FileStore(root, Disk(), source=remote), [Part("files/file-1", 5)], 0, 5)


async def test_store_that_nobody_answers_for_is_unavailable(root: Path) -> None:
    options: dict[str, Any] = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}
    remote = HTTPStore.from_url("http://127.0.0.1:1", **options)
    with pytest.raises(Unavailable):
        await joined(FileStore(root, Disk(), source=remote), [Part("files/file-1", 5)], 0, 5)


async def test_store_that_is_asked_nonsense_is_not_unavailable(store: FileStore) -> None:
    """Our own defect fails each time: nobody should be told to try again."""
    with pytest.raises(OverflowError):
        await joined(store, [Part("files/file-1", 1 << 66)], 1 << 65, 5)


@pytest.mark.parametrize("instead", ["nothing", "a file", "an empty folder"])
async def test_store_whose_disk_went_away_has_lost_nothing(store: FileStore, root: Path, instead: str) -> None:
    part = await put(store, "files/file-1", b"hello")
    away = root.rename(root.with_name("away"))
    if instead == "a file":
        root.touch()
    elif instead == "an empty folder":
        root.mkdir()
    with pytest.raises(Unavailable):
        await joined(store, [part], 0, 5)
    if root.exists():
        root.unlink() if root.is_file() else root.rmdir()
    away.rename(root)
    assert await joined(store, [part], 0, 5) == b"hello"


class Failing(Disk):
    """Reports that it could not write, for another reason than that it is full."""

    def sync_file(self, path: Path, *, site: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


async def test_disk_that_fails_is_unavailable_and_leaves_nothing(root: Path) -> None:
    with pytest.raises(Unavailable):
        await put(FileStore(root, Failing()), "files/file-1", b"hello")
    assert not [path for path in root.rglob("*") if path.is_file()]


NO_DESCRIPTORS = """
import asyncio, logging, os, resource, sys
from pathlib import Path
from batchyard.service.datadir.disk import Disk
from batchyard.service.errors import Unavailable
from batchyard.service.objects.local import FileStore, Part
root = Path(sys.argv[1])
store = FileStore(root, Disk())
async def read():
    return b"".join([piece async for piece in store.read([Part("files/file-1", 5)], 0, 5)])
async def main():
    (root / "files").mkdir()
    (root / "files/file-1").write_bytes(b"hello")
    await read()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
    try:
        await read()
    except Unavailable as error:
        print(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(await read())
logging.disable()
asyncio.run(main())
"""


def test_process_out_of_file_descriptors_has_lost_nothing(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_DESCRIPTORS, str(root)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout, done.stderr) == ("Unavailable\nb'hello'\n", "")
