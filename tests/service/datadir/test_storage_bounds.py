"""Storage has bounds: uploads beyond them are refused, batches wait for room, and deletion always makes some."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import grpc
import pytest
from starlette.responses import Response
from tests.fakes import Behaviour, FakeEndpoint, completion, failure, fake_endpoint
from tests.harness import Client, chat_lines, jsonl, refused, service, settings_for, until, upload_messages
from tests.statuses import told

from batchyard.service.config.settings import Limits, LocalSettings, RetentionSettings, Settings
from batchyard.service.datadir.disk import Disk
from batchyard.service.objects.base import WRITE_BYTES as BLOCK
from batchyard.v1 import (
    Batch,
    BatchStatus,
    CancelBatchRequest,
    DeleteFileRequest,
    ExpiresAfter,
    UploadFileMetadata,
    UploadFileRequest,
)

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
MIB = 1 << 20
METADATA = UploadFileMetadata(purpose="user_data", filename="a.txt")
LINES = 20
INPUT = jsonl(chat_lines(LINES))
LONG = "x" * 4000


class Told(Disk):
    """A disk with as much room as it is told, less what was written to `folder`."""

    def __init__(self, room: int, folder: Path) -> None:
        self.room = room
        self._folder = folder

    def free_bytes(self, path: Path) -> int:
        return self.room - stored(self._folder)


def stored(folder: Path) -> int:
    """The bytes of everything below a folder, also of what is being written."""
    sizes = 0
    for path in folder.rglob("*"):
        try:
            sizes += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return sizes


def bounded(folder: Path, most: int, **changes: Any) -> Settings:
    return settings_for(folder, limits=Limits(max_stored_bytes=most), **changes)


async def keep(client: Client, size: int) -> str:
    """The id of a file with so many bytes."""
    return (await client.upload(b"x" * size, purpose="user_data")).id


async def delete(client: Client, file_id: str) -> None:
    await client.stub.DeleteFile(DeleteFileRequest(file_id=file_id), metadata=client.metadata)


async def test_an_upload_beyond_the_bound_is_refused_by_name_and_leaves_nothing(tmp_path: Path) -> None:
    async with service(bounded(tmp_path, 2 * MIB)) as (_, client):
        async with refused(FULL) as errors:
            await keep(client, 2 * MIB + 1)
        found = told(errors[0])
        assert found.reason == "STORAGE_FULL"
        assert "batchyard.limits.max_stored_bytes" in found.message
        assert stored(tmp_path / "data/store") == 0
        await keep(client, 2 * MIB)


async def test_a_full_store_refuses_an_upload_at_its_first_byte(tmp_path: Path) -> None:
    async with service(bounded(tmp_path, MIB)) as (_, client):
        await keep(client, MIB)
        call = client.stub.UploadFile(metadata=client.metadata)
        await call.write(UploadFileRequest(metadata=METADATA))
        await call.write(UploadFileRequest(data=b"x"))
        assert await call.code() is FULL


async def test_deletion_works_in_a_full_store_and_makes_room(tmp_path: Path) -> None:
    async with service(bounded(tmp_path, MIB)) as (_, client):
        for _ in range(3):
            file_id = await keep(client, MIB)
            async with refused(FULL):
                await keep(client, 1)
            await delete(client, file_id)


async def test_an_upload_that_breaks_off_gives_its_room_back(tmp_path: Path) -> None:
    async with service(bounded(tmp_path, MIB)) as (_, client):
        call = client.stub.UploadFile(metadata=client.metadata)
        await call.write(UploadFileRequest(metadata=METADATA))
        await call.write(UploadFileRequest(data=b"x" * MIB))
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        await keep(client, MIB)


async def test_what_was_stored_before_a_start_counts(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        file_id = await keep(client, MIB)
    async with service(bounded(tmp_path, MIB)) as (_, client):
        async with refused(FULL):
            await keep(client, 1)
        await delete(client, file_id)
        await keep(client, MIB)


@pytest.mark.parametrize("bound", ["max_stored_bytes", "min_free_bytes"])
async def test_ten_uploads_at_once_do_not_overshoot(tmp_path: Path, bound: str) -> None:
    store, most, seen = tmp_path / "data/store", 4 * MIB, [0]
    slack = 0 if bound == "max_stored_bytes" else 10 * BLOCK
    limits = Limits(**{bound: most})

    def looking(data: bytes) -> Iterator[UploadFileRequest]:
        for message in upload_messages(data, METADATA):
            yield message
            seen.append(stored(store))

    async with service(settings_for(tmp_path, limits=limits), disk=Told(2 * most, store)) as (_, client):
        sent = [client.stub.UploadFile(looking(b"x" * MIB), metadata=client.metadata) for _ in range(10)]
        codes = [await call.code() for call in sent]
    assert set(codes) <= {grpc.StatusCode.OK, FULL}
    assert FULL in codes
    assert max(seen) <= most + slack
    assert stored(store) == MIB * codes.count(grpc.StatusCode.OK)


async def test_a_nearly_full_disk_refuses_uploads_by_name_until_it_has_room(tmp_path: Path) -> None:
    disk = Told(MIB, tmp_path / "data/store")
    async with service(settings_for(tmp_path), disk=disk) as (_, client):
        async with refused(FULL) as errors:
            await keep(client, 1)
        assert "batchyard.limits.min_free_bytes" in told(errors[0]).message
        disk.room = Limits().min_free_bytes + MIB
        await keep(client, 1)


async def answer(body: dict[str, Any], before: int) -> Response:
    return completion(body)


@asynccontextmanager
async def running(
    folder: Path,
    settings: Settings,
    disk: Disk | None = None,
    behaviour: Behaviour = answer,
    ahead: list[int] | None = None,
) -> AsyncIterator[tuple[FakeEndpoint, Client]]:
    """A service whose lines run at a fake endpoint; its clock is the first of `ahead` seconds ahead."""
    later = ahead or [0]
    async with fake_endpoint(behaviour) as fake:
        settings = replace(settings, local=LocalSettings(api_base=fake.api_base, chunk_lines=LINES // 2))
        async with service(settings, disk=disk, clock=lambda: time() + later[0]) as (_, client):
            yield fake, client


async def waits(caplog: pytest.LogCaptureFixture) -> None:
    """Returns when the engine has met a full store twice."""

    async def met() -> int:
        return caplog.messages.count("batch is stuck, will try again")

    await until(met, lambda times: times >= 2)


async def every_line_once(client: Client, batch: Batch) -> None:
    assert batch.status == BatchStatus.BATCH_STATUS_COMPLETED
    results = await client.results(batch.output_file_id) + await client.results(batch.error_file_id)
    assert sorted(line["custom_id"] for line in results) == sorted(f"request-{number}" for number in range(LINES))


async def test_no_line_is_started_on_a_nearly_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    least = Limits().min_free_bytes
    disk = Told(least + MIB, tmp_path / "none")
    async with running(tmp_path, settings_for(tmp_path), disk) as (fake, client):
        file = await client.upload(INPUT)
        disk.room = least - 1
        batch = await client.create(file.id)
        await waits(caplog)
        assert not fake.calls
        disk.room = least
        await every_line_once(client, await client.ended(batch.id))


@pytest.mark.parametrize("way", ["deletion", "expiry"])
async def test_a_batch_whose_results_do_not_fit_waits_for_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    async def refuse_last(body: dict[str, Any], before: int) -> Response:
        return failure(400, LONG) if body["messages"][-1]["content"].endswith("9") else completion(body)

    ahead, segments = [0], tmp_path / "data/store/segments"
    settings = bounded(tmp_path, MIB, retention=RetentionSettings(sweep_seconds=0.05))
    async with running(tmp_path, settings, behaviour=refuse_last, ahead=ahead) as (fake, client):
        file = await client.upload(INPUT)
        other = await fill(client, MIB - len(INPUT) - 6000)  # the room for a chunk's output, and not for its errors
        batch = await client.create(file.id)
        await waits(caplog)
        assert set(fake.calls.values()) == {1}
        if way == "deletion":
            await delete(client, other)
        else:
            ahead[0] = 3601
        await every_line_once(client, await client.ended(batch.id))
        assert set(fake.calls.values()) == {1}
        assert len(list(segments.iterdir())) == 4, "segments of a seal that failed were left behind"


async def fill(client: Client, size: int) -> str:
    """The id of a file with so many bytes that expires in an hour."""
    after = ExpiresAfter(anchor="created_at", seconds=3600)
    metadata = UploadFileMetadata(purpose="user_data", filename="a.txt", expires_after=after)
    return (await client.stub.UploadFile(upload_messages(b"x" * size, metadata), metadata=client.metadata)).file.id


async def test_a_batch_that_waits_for_room_can_be_cancelled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, bounded(tmp_path, len(INPUT))) as (fake, client):
        file = await client.upload(INPUT)
        batch = await client.create(file.id)
        await waits(caplog)
        await client.stub.CancelBatch(CancelBatchRequest(batch_id=batch.id), metadata=client.metadata)
        ended = await client.ended(batch.id)
        assert ended.status == BatchStatus.BATCH_STATUS_CANCELLED
        lines = await client.results(ended.error_file_id)
        assert [line["error"]["code"] for line in lines] == ["batch_cancelled"] * LINES
        assert not fake.calls
        await delete(client, file.id)
        await delete(client, ended.error_file_id)
        await keep(client, len(INPUT))
