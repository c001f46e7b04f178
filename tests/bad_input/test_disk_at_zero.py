"""A disk without a byte left. A test's name is a row of docs/bad-inputs.md, its docstring the answer."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest
from tests.bad_input.test_disk import LINES, Small, assert_whole, refused, small
from tests.harness import Client, chat_lines, jsonl, until
from tests.processes import Process, process

from batchyard.v1 import Batch, BatchStatus, CancelBatchRequest, DeleteFileRequest

pytestmark = pytest.mark.skipif("BATCHYARD_TEST_NO_MOUNT" in os.environ, reason="BATCHYARD_TEST_NO_MOUNT is set")


async def delete(client: Client, file_id: str) -> None:
    await client.stub.DeleteFile(DeleteFileRequest(file_id=file_id), metadata=client.metadata)


async def cancel(client: Client, batch: Batch) -> None:
    await client.stub.CancelBatch(CancelBatchRequest(batch_id=batch.id), metadata=client.metadata)


async def started(client: Client) -> Batch:
    """A batch whose first lines have run."""
    created = await client.create((await client.upload(jsonl(chat_lines(LINES)))).id)
    return await until(lambda: client.get(created.id), lambda batch: batch.request_counts.completed > 0)


async def test_files_are_deleted_on_a_full_disk(tmp_path: Path) -> None:
    """It works, however often the room that this makes is taken again: a reserve is kept for it."""
    async with small(tmp_path) as found:
        client = found.bench.client
        made = [(await client.upload(b"x", purpose="user_data")).id for _ in range(10)]
        for file_id in made:
            found.fill()
            await until(lambda: refused(client), bool, every=0)
            await delete(client, file_id)


async def test_a_batch_is_cancelled_on_a_full_disk(tmp_path: Path) -> None:
    """It works, and the lines that had not run are written off: its files can be deleted."""
    async with small(tmp_path) as found:
        client = found.bench.client
        batch = await started(client)
        found.fill()
        await until(lambda: refused(client), bool, every=0)
        await cancel(client, batch)
        ended = await client.ended(batch.id)
        assert ended.status == BatchStatus.BATCH_STATUS_CANCELLED
        results = await client.results(ended.output_file_id) + await client.results(ended.error_file_id)
        assert {line["custom_id"] for line in results} == {f"request-{number}" for number in range(LINES)}
        await delete(client, batch.input_file_id)


async def test_the_service_is_killed_and_starts_on_a_full_disk(tmp_path: Path) -> None:
    """It starts, and takes deletions; batches go on when there is room."""
    async with small(tmp_path) as found:
        batch = await started(found.bench.client)
        other = await found.bench.client.upload(b"x", purpose="user_data")
        found.fill()
        async with kept(tmp_path, found) as pid:
            with again(tmp_path, pid) as served:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{await served.port()}") as channel:
                    client = Client(channel)
                    assert (await client.get(batch.id)).status == BatchStatus.BATCH_STATUS_IN_PROGRESS
                    await delete(client, other.id)
                    found.free()
                    await assert_whole(client, await client.ended(batch.id))


async def test_the_service_is_killed_on_a_full_disk_and_its_reserve_is_gone(tmp_path: Path) -> None:
    """The start fails, and says why in a line."""
    async with small(tmp_path) as found:
        await started(found.bench.client)
        async with kept(tmp_path, found) as pid:
            os.truncate(found.ballast.with_name("reserve"), 0)
            found.fill()
            with again(tmp_path, pid) as served:
                assert await served.ended() == 1
                *before, line = served.log.read_text().splitlines()
                assert line.startswith("batchyard: The storage of this service is full.")
                assert "Traceback" not in str(before)


@asynccontextmanager
async def kept(folder: Path, found: Small) -> AsyncIterator[int]:
    """A process that keeps the disk of a server that is killed; `found` sees it there."""
    with samedisk(folder / "kept.log", found.server.pid, "sh", "-c", "echo there on :1; exec sleep inf") as keeper:
        await keeper.port("there on")
        found.ballast = Path(f"/proc/{keeper.pid}/root{folder}/data/ballast")
        found.server.kill()
        yield keeper.pid


@contextmanager
def again(folder: Path, pid: int) -> Iterator[Process]:
    """The service once more, on the disk that a process keeps."""
    options = ["--config", str(folder / "config.yaml"), "--grpc-port", "0", "--data-dir", str(folder / "data")]
    command = [sys.executable, "-m", "batchyard.cli.main", "service", *options]
    with samedisk(folder / "again.log", pid, *command) as served:
        yield served


def samedisk(log: Path, pid: int, *command: str) -> AbstractContextManager[Process]:
    return process(log, "tests.bad_input.samedisk", str(pid), *command)
