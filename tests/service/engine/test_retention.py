"""Files expire when it was said, never under a batch that reads them, and a deletion that broke off is finished."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from starlette.responses import Response
from tests.fakes import FakeEndpoint, Gate, completion, fake_endpoint
from tests.harness import (
    Client,
    chat_lines,
    jsonl,
    refused,
    service,
    settings_for,
    until,
    upload_messages,
)
from tests.registries import a_batch, opened

from batchyard.common.clock import GuardedClock
from batchyard.common.metrics import Metrics
from batchyard.service.config.settings import LocalSettings, RetentionSettings, Settings
from batchyard.service.domain.records import IdempotencyKey, Part
from batchyard.service.engine.retention import Retention as Sweeper
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry
from batchyard.v1 import (
    BatchStatus,
    DeleteFileRequest,
    ExpiresAfter,
    File,
    GetFileRequest,
    ListFilesRequest,
    UploadFileMetadata,
)

DAY = 86_400
INPUT = jsonl(chat_lines(2))


class Clock:
    """The real time, and what it was put forward by."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def sweeping(folder: Path, **changes: Any) -> Settings:
    return settings_for(folder, **{"retention": RetentionSettings(sweep_seconds=0.02), **changes})


@asynccontextmanager
async def clocked(settings: Settings) -> AsyncIterator[tuple[Clock, Client]]:
    clock = Clock()
    async with service(settings, clock=clock) as (_, client):
        yield clock, client


async def upload(client: Client, seconds: int | None = None, purpose: str = "batch") -> File:
    after = None if seconds is None else ExpiresAfter(anchor="created_at", seconds=seconds)
    metadata = UploadFileMetadata(purpose=purpose, filename="a.jsonl", expires_after=after)
    return (await client.stub.UploadFile(upload_messages(INPUT, metadata), metadata=client.metadata)).file


async def there(client: Client, file_id: str) -> bool:
    code = await client.stub.GetFile(GetFileRequest(file_id=file_id), metadata=client.metadata).code()
    assert code in {StatusCode.OK, StatusCode.NOT_FOUND}
    return code is StatusCode.OK


async def gone(client: Client, file_id: str) -> None:
    await until(lambda: there(client, file_id), lambda found: not found)


async def no_bytes(folder: Path, file_id: str) -> None:
    async def stored() -> list[Path]:
        return [path for path in (folder / "data/store").rglob("*") if path.name == file_id]

    await until(stored, lambda found: not found)


async def swept_once(client: Client, clock: Clock) -> None:
    """Returns after a whole sweep: a file that is due now has been seen to go."""
    canary = await upload(client, 3600)
    clock.ahead += 3601
    await gone(client, canary.id)


async def test_a_batch_input_expires_after_thirty_days(tmp_path: Path) -> None:
    async with clocked(sweeping(tmp_path)) as (clock, client):
        file = await upload(client)
        assert file.expires_at == file.created_at + 30 * DAY
        clock.ahead = 30 * DAY - 3700
        await swept_once(client, clock)
        assert await there(client, file.id)
        clock.ahead = 30 * DAY + 1
        await gone(client, file.id)
        await no_bytes(tmp_path, file.id)


@pytest.mark.parametrize("purpose", ["user_data", "vision", "assistants", "fine-tune", "evals"])
async def test_files_of_other_purposes_never_expire(tmp_path: Path, purpose: str) -> None:
    async with clocked(sweeping(tmp_path)) as (clock, client):
        file = await upload(client, purpose=purpose)
        assert not file.HasField("expires_at")
        clock.ahead = 3650 * DAY
        await swept_once(client, clock)
        assert await client.read(file.id) == INPUT


async def test_the_defaults_come_from_the_settings(tmp_path: Path) -> None:
    retention = RetentionSettings(batch_file_seconds=100, output_file_seconds=200)
    async with service(settings_for(tmp_path, retention=retention)) as (_, client):
        file = await upload(client)
        batch = await client.ended((await client.create(file.id)).id)
        request = GetFileRequest(file_id=batch.output_file_id)
        output = (await client.stub.GetFile(request, metadata=client.metadata)).file
        assert file.expires_at == file.created_at + 100
        assert output.expires_at == output.created_at + 200


async def test_a_file_expires_when_its_caller_said(tmp_path: Path) -> None:
    async with clocked(sweeping(tmp_path)) as (clock, client):
        short, long = await upload(client, 3600), await upload(client, 7200, purpose="user_data")
        assert (short.expires_at, long.expires_at) == (short.created_at + 3600, long.created_at + 7200)
        clock.ahead = 3601
        await gone(client, short.id)
        assert await there(client, long.id)
        clock.ahead = 7201
        await gone(client, long.id)


async def test_result_files_expire_from_their_own_creation_as_the_batch_said(tmp_path: Path) -> None:
    async with clocked(sweeping(tmp_path)) as (clock, client):
        file = await upload(client)
        after = ExpiresAfter(anchor="created_at", seconds=7200)
        batch = await client.ended((await client.create(file.id, output_expires_after=after)).id)
        request = GetFileRequest(file_id=batch.output_file_id)
        output = (await client.stub.GetFile(request, metadata=client.metadata)).file
        assert output.expires_at == output.created_at + 7200
        clock.ahead = 7201
        await gone(client, output.id)
        assert await there(client, file.id)
        assert (await client.get(batch.id)).output_file_id == output.id

        async def segments() -> list[Path]:
            return list((tmp_path / "data/store/segments").iterdir())

        await until(segments, lambda found: not found)


async def test_a_file_that_a_live_batch_reads_waits_for_its_end(tmp_path: Path) -> None:
    gate = Gate()

    async def held(body: dict[str, Any], before: int) -> Response:
        await gate.passed()
        return completion(body)

    async with fake_endpoint(held) as fake, clocked(sweeping(tmp_path, local=_at(fake))) as (clock, client):
        file = await upload(client, 3600)
        batch = await client.create(file.id)
        clock.ahead = 3601
        await swept_once(client, clock)
        assert await client.read(file.id) == INPUT
        gate.open()
        assert (await client.ended(batch.id)).status == BatchStatus.BATCH_STATUS_COMPLETED
        await gone(client, file.id)


async def test_a_deletion_that_broke_off_after_its_mark_is_finished_by_the_next_start(tmp_path: Path) -> None:
    settings = sweeping(tmp_path)
    async with service(settings) as (_, client):
        file = await upload(client)
    await _mark_deleted(settings.data_dir, file.id)
    assert (settings.data_dir / "store/files" / file.id).exists()
    async with service(settings) as (_, client):
        assert not await there(client, file.id)
        await no_bytes(tmp_path, file.id)


async def test_a_deletion_whose_bytes_are_gone_already_is_finished(tmp_path: Path) -> None:
    settings = sweeping(tmp_path)
    async with service(settings) as (_, client):
        file = await upload(client)
    await _mark_deleted(settings.data_dir, file.id)
    (settings.data_dir / "store/files" / file.id).unlink()
    async with clocked(settings) as (clock, client):
        clock.ahead = 8 * DAY  # its row goes too, which it can't while a part is registered
        await until(lambda: _cursor_code(client, file.id), lambda code: code is StatusCode.INVALID_ARGUMENT)


async def test_a_deleted_file_serves_as_a_cursor_for_a_week(tmp_path: Path) -> None:
    async with clocked(sweeping(tmp_path)) as (clock, client):
        older, deleted = await upload(client, purpose="user_data"), await upload(client, purpose="user_data")
        await client.stub.DeleteFile(DeleteFileRequest(file_id=deleted.id), metadata=client.metadata)
        clock.ahead = 7 * DAY - 3700
        await swept_once(client, clock)
        request = ListFilesRequest(after=deleted.id)
        page = await client.stub.ListFiles(request, metadata=client.metadata)
        assert [file.id for file in page.data] == [older.id]
        clock.ahead = 7 * DAY + 3600
        await until(lambda: _cursor_code(client, deleted.id), lambda code: code is StatusCode.INVALID_ARGUMENT)


async def test_an_expired_input_fails_the_batch_that_names_it_later(tmp_path: Path) -> None:
    async with clocked(sweeping(tmp_path)) as (clock, client):
        file = await upload(client, 3600)
        clock.ahead = 3601
        await gone(client, file.id)
        batch = await client.ended((await client.create(file.id)).id)
        assert [error.code for error in batch.errors.data] == ["invalid_request"]
        async with refused(StatusCode.NOT_FOUND):
            await client.read(file.id)


def _at(fake: FakeEndpoint) -> LocalSettings:
    return LocalSettings(api_base=fake.api_base)


async def _mark_deleted(data_dir: Path, file_id: str) -> None:
    """What a deletion commits first; then the power is cut."""
    database = await asyncio.to_thread(SqliteDatabase, f"sqlite:///{data_dir / 'registry.sqlite3'}")
    await TenantRegistry(database, "default").delete_file(file_id, "", int(time.time()))
    await asyncio.to_thread(database.close)


async def _cursor_code(client: Client, file_id: str) -> StatusCode:
    return await client.stub.ListFiles(ListFilesRequest(after=file_id), metadata=client.metadata).code()


async def test_a_clock_that_jumped_ahead_ends_no_idempotency_key_before_an_hour(tmp_path: Path) -> None:
    clock, steady, metrics = Clock(), Clock(), Metrics()
    async with opened(tmp_path) as database:
        tenant, work = TenantRegistry(database, "a"), WorkRegistry(database, "w")
        once = IdempotencyKey("key", "digest", int(clock()))
        made = await tenant.add_batch(a_batch(1), once)
        retention = Sweeper(work, nothing, 60, GuardedClock(clock, steady), ServiceMetrics(metrics))
        clock.ahead = 2 * DAY
        await retention.sweep()
        assert metrics.registry.get_sample_value("batchyard_clock_held") == 1
        assert (await tenant.add_batch(a_batch(2), once)).id == made.id
        steady.ahead = 3600
        await retention.sweep()
        assert metrics.registry.get_sample_value("batchyard_clock_held") == 0
        assert (await tenant.add_batch(a_batch(2), once)).id != made.id


async def nothing(parts: list[Part]) -> None:
    assert not parts
