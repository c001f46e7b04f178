"""A full disk, a real one. A test's name is a row of docs/bad-inputs.md where it has a docstring: the answer."""

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tests.bad_input.disk import REGISTERED, REGISTRY, UPLOAD
from tests.bad_input.model import Case
from tests.bad_input.proving import Bench, joined, prove
from tests.bad_input.smalldisk import possible
from tests.harness import Client, chat_lines, jsonl, until
from tests.harness import refused as gone
from tests.processes import Process, configure, process

from batchyard.v1 import Batch, BatchStatus, CancelBatchRequest, DeleteFileRequest

DISK_BYTES = 48 << 20
LINES = 300

pytestmark = pytest.mark.skipif("BATCHYARD_TEST_NO_MOUNT" in os.environ, reason="BATCHYARD_TEST_NO_MOUNT is set")


@dataclass
class Small:
    """A server whose data is on a small disk; `ballast` is a file there that takes what is free."""

    bench: Bench
    server: Process
    ballast: Path

    def fill(self) -> None:
        """Takes all that is free, to the last byte."""
        with self.ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 10, 1):
                _write_all(file.fileno(), size)

    def free(self) -> None:
        self.ballast.unlink()


@asynccontextmanager
async def small(folder: Path, *, registry_alone: bool = False) -> AsyncIterator[Small]:
    """With `registry_alone`, the files lie elsewhere."""
    assert possible(), "nobody may mount a disk of his own here: allow it, or set BATCHYARD_TEST_NO_MOUNT"
    configure(folder, echo=True, echo_delay_ms=10, max_concurrency=1)
    disk = folder / "data"
    disk.mkdir()
    data, environ = disk, {}
    if registry_alone:
        data, environ = folder / "elsewhere", {"BATCHYARD_DATABASE_URL": f"sqlite:///{disk}/registry.sqlite3"}
    options = ["--config", str(folder / "config.yaml"), "--port", "0", "--grpc-port", "0", "--data-dir", str(data)]
    arguments = [str(disk), str(DISK_BYTES), "batchyard.cli.main", "serve", *options]
    with process(folder / "log", "tests.bad_input.smalldisk", *arguments, environ=environ) as server:
        port, grpc_port = await server.port("REST on"), await server.port("gRPC on")
        inside = f"/proc/{server.pid}/root"
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
            joined(port, grpc_port, Client(channel), Path(f"{inside}{data}/store")) as bench,
        ):
            yield Small(bench, server, Path(f"{inside}{disk}/ballast"))


async def test_uploads_and_batches_are_refused_until_there_is_room_again(tmp_path: Path) -> None:
    async with small(tmp_path) as found:
        client, content = found.bench.client, jsonl(chat_lines(1))
        found.fill()
        await prove_ways(found.bench, UPLOAD)
        await until(lambda: refused(client), bool, every=0)
        await prove_ways(found.bench, REGISTRY)
        found.free()
        file = await client.upload(content)
        assert await client.read(file.id) == content
        assert (await client.ended((await client.create(file.id)).id)).request_counts.completed == 1


async def test_an_upload_whose_row_has_no_room_leaves_nothing(tmp_path: Path) -> None:
    async with small(tmp_path, registry_alone=True) as found:
        found.fill()
        await until(lambda: refused(found.bench.client), bool, every=0)
        await prove_ways(found.bench, REGISTERED)


async def test_deleting_and_cancelling_on_a_full_disk(tmp_path: Path) -> None:
    """Both work: a reserve is given up for them."""
    async with small(tmp_path) as found:
        client, content = found.bench.client, jsonl(chat_lines(LINES))
        unread, read = await client.upload(b"{}\n"), await client.upload(content)
        batch = await client.create(read.id)
        await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed > 0)
        found.fill()
        await until(lambda: refused(client), bool, every=0)
        await client.stub.CancelBatch(CancelBatchRequest(batch_id=batch.id), metadata=client.metadata)
        await client.stub.DeleteFile(DeleteFileRequest(file_id=unread.id), metadata=client.metadata)
        async with gone(grpc.StatusCode.NOT_FOUND):
            await client.read(unread.id)
        assert "a deletion or a cancellation uses the reserve" in await said(found.server)
        found.free()
        assert (await client.ended(batch.id)).status == BatchStatus.BATCH_STATUS_CANCELLED


async def test_a_full_disk_while_results_are_written(tmp_path: Path) -> None:
    """The batch waits, and goes on by itself when there is room again: every line is there, once."""
    async with small(tmp_path) as found:
        client = found.bench.client
        created = await client.create((await client.upload(jsonl(chat_lines(LINES)))).id)
        await until(lambda: client.get(created.id), lambda batch: batch.request_counts.completed > 0)
        found.fill()
        await until(lambda: said(found.server), lambda text: "batch is stuck" in text)
        assert (await client.get(created.id)).status == BatchStatus.BATCH_STATUS_IN_PROGRESS
        found.free()
        await assert_whole(client, await client.ended(created.id))


async def prove_ways(bench: Bench, case: Case) -> None:
    for send, surface in case.ways():
        await prove(bench, case, send, surface)


async def refused(client: Client) -> bool:
    """Whether the registry has no room for one more batch: what it had set aside before is used up first."""
    try:
        await client.create("file-missing")
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return False


async def said(server: Process) -> str:
    return server.log.read_text()


async def assert_whole(client: Client, batch: Batch) -> None:
    assert batch.status == BatchStatus.BATCH_STATUS_COMPLETED
    assert batch.request_counts.completed == LINES
    results = [line["custom_id"] for line in await client.results(batch.output_file_id)]
    assert results == [f"request-{number}" for number in range(LINES)]


def _write_all(file: int, size: int) -> None:
    """Writes pieces until none fits."""
    try:
        while os.write(file, bytes(size)) == size:
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
