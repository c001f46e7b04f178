"""What was acknowledged outlives a SIGKILL, and what was not leaves nothing behind."""

import asyncio
from pathlib import Path
from random import Random

import grpc
import pytest
from tests.harness import Client, chat_lines, jsonl, refused, until, upload_messages
from tests.kills import leftovers, living, torture
from tests.processes import Process, configure

from batchyard.v1 import BatchStatus, File, ListFilesRequest, UploadFileMetadata, UploadFileRequest, UploadFileResponse

pytestmark = pytest.mark.once
SEED = 20_000
DATA = jsonl(chat_lines(30_000))  # 4 MB
WHOLE = "file-*[!#]?"  # not `file-...#1`, which is still being written
METADATA = UploadFileMetadata(purpose="batch", filename="input.jsonl")

UploadCall = grpc.aio.StreamUnaryCall[UploadFileRequest, UploadFileResponse]


async def test_a_batch_that_is_killed_ten_times_has_every_line_once(tmp_path: Path) -> None:
    report = await torture(tmp_path, SEED, 10)
    assert (report.lost, report.doubled, report.faults) == (0, 0, [])
    assert report.inside >= 1
    assert report.between >= 1


async def test_an_acknowledged_file_and_batch_survive_a_kill_right_after(tmp_path: Path) -> None:
    configure(tmp_path, echo=True)
    async with living(tmp_path) as (process, client):
        file = await client.upload(DATA)
        batch = await client.create(file.id)
        process.kill()
    async with living(tmp_path) as (_, client):
        assert await client.read(file.id) == DATA
        ended = await client.ended(batch.id)
        assert ended.status == BatchStatus.BATCH_STATUS_COMPLETED
        assert ended.request_counts.completed == 30_000


@pytest.mark.parametrize("pieces", [4, 9, 14])
async def test_an_upload_that_is_killed_on_its_way_leaves_no_file_and_no_bytes(tmp_path: Path, pieces: int) -> None:
    configure(tmp_path, echo=True)
    async with living(tmp_path) as (process, client):
        call = begun(client)
        await send(call, pieces)
        await stored(tmp_path, "*")
        process.kill()
        async with refused(grpc.StatusCode.UNAVAILABLE):
            await call
    async with living(tmp_path) as (_, client):
        assert await files(client) == []
        assert leftovers(tmp_path) == []


async def test_an_upload_that_is_killed_at_its_end_is_whole_or_not_there(tmp_path: Path) -> None:
    random = Random(SEED)
    configure(tmp_path, echo=True)
    acknowledged: set[str] = set()
    for _ in range(5):
        async with living(tmp_path) as (process, client):
            acknowledged |= await killed_at_its_end(tmp_path, process, client, random.uniform(0, 0.01))
    async with living(tmp_path) as (_, client):
        found = await files(client)
        assert acknowledged <= {file.id for file in found}
        for file in found:
            assert await client.read(file.id) == DATA
        assert leftovers(tmp_path) == []


def begun(client: Client) -> UploadCall:
    call: UploadCall = client.stub.UploadFile(metadata=client.metadata)
    return call


async def send(call: UploadCall, pieces: int) -> None:
    """The metadata and the first pieces of an upload."""
    for _, message in zip(range(pieces + 1), upload_messages(DATA, METADATA), strict=False):
        await call.write(message)


async def stored(folder: Path, names: str, most: int = 0) -> None:
    """Returns when the store has more than `most` files of uploads with such names."""

    async def look() -> int:
        return len(list((folder / "data" / "store" / "files").glob(names)))

    await until(look, lambda found: found > most, every=0.001)


async def killed_at_its_end(folder: Path, process: Process, client: Client, delay: float) -> set[str]:
    """Kills the service `delay` seconds after the upload's bytes got their name. Returns its id if it was told."""
    before = len(await files(client))
    uploading = asyncio.create_task(client.upload(DATA))
    await stored(folder, WHOLE, before)
    await asyncio.sleep(delay)
    process.kill()
    try:
        return {(await uploading).id}
    except grpc.aio.AioRpcError:
        return set()


async def files(client: Client) -> list[File]:
    return list((await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)).data)
