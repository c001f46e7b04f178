"""A download that can't be finished says why: the file was deleted, or its bytes are damaged."""

import os
from pathlib import Path

import grpc
import pytest
from tests.harness import Client, refused, service, settings_for
from tests.statuses import told

from batchyard.v1 import DeleteFileRequest, DownloadFileRequest, DownloadFileResponse

SIZE = 48 << 20  # more than a connection holds while its client reads nothing


async def stored(client: Client) -> str:
    return (await client.upload(bytes(SIZE), purpose="user_data")).id


async def begun(client: Client, file_id: str) -> "grpc.aio.UnaryStreamCall[DownloadFileRequest, DownloadFileResponse]":
    """A download of which the first data has come."""
    call = client.stub.DownloadFile(DownloadFileRequest(file_id=file_id), metadata=client.metadata)
    for _ in range(2):
        assert await call.read() is not grpc.aio.EOF
    return call


async def test_a_file_that_is_deleted_during_its_download_is_not_found(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        file_id = await stored(client)
        call = await begun(client, file_id)
        await client.stub.DeleteFile(DeleteFileRequest(file_id=file_id), metadata=client.metadata)
        async with refused(grpc.StatusCode.NOT_FOUND) as errors:
            while await call.read() is not grpc.aio.EOF:
                pass
        assert told(errors[0]).reason == "NOT_FOUND"


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
async def test_a_file_that_is_damaged_during_its_download_is_data_loss(tmp_path: Path, damage: str) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        file_id = await stored(client)
        call = await begun(client, file_id)
        path = tmp_path / "data/store/files" / file_id
        if damage == "cut":
            os.truncate(path, SIZE - 1)
        elif damage == "flipped":
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"x")
        else:
            path.unlink()
        async with refused(grpc.StatusCode.DATA_LOSS) as errors:
            while await call.read() is not grpc.aio.EOF:
                pass
        assert told(errors[0]).reason == "DATA_LOSS"


async def test_a_range_is_data_loss_where_its_block_is_damaged_and_only_there(tmp_path: Path) -> None:
    content = bytes(1 << 20)
    async with service(settings_for(tmp_path)) as (_, client):
        file_id = (await client.upload(content, purpose="user_data")).id
        with (tmp_path / "data/store/files" / file_id).open("r+b") as file:
            file.seek(700_000)
            file.write(b"x")
        assert await client.read(file_id, 10, 500_000) == content[:500_000]
        async with refused(grpc.StatusCode.DATA_LOSS):
            await client.read(file_id, 780_000, 10)
