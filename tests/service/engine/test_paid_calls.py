"""Calls in flight are paid for: nothing that is less than that breaks them off."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from tests.fakes import completion, fake_endpoint
from tests.harness import chat_line, jsonl, service, settings_for, until
from tests.registries import failing
from tests.service.engine.engines import LINES, Clock, Lines, add_input, engine, new_batch

from batchyard.service.config.settings import LocalSettings
from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import Status
from batchyard.service.engine.runners.slots import LineControl
from batchyard.service.jsonl.results import Answer, Failure
from batchyard.service.objects.local import FileStore
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.v1 import BatchStatus

PROGRESS = ("UPDATE chunks SET completed",)
WAITING = ("UPDATE batches SET waiting",)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = await asyncio.to_thread(SqliteDatabase, f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    yield database
    await asyncio.to_thread(database.close)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ERROR])
async def test_progress_that_cant_be_written_breaks_off_no_call(tmp_path: Path, code: int) -> None:
    gate = asyncio.Event()

    async def slow(body: dict[str, Any], before: int) -> Response:
        if body["messages"][-1]["content"] != "quick":
            await gate.wait()
        return completion(body)

    async with fake_endpoint(slow) as fake:
        settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, max_concurrency=8))
        async with service(settings) as (_, client):
            with failing(code, *PROGRESS) as failed:

                async def failures() -> int:
                    return len(failed)

                file = await client.upload(
                    jsonl([chat_line("q", "quick"), *(chat_line(f"{n}", f"{n}") for n in range(5))])
                )
                batch = await client.create(file.id)
                await until(failures, lambda count: count > 2)
                gate.set()
                ended = await client.ended(batch.id)
    assert (ended.status, ended.request_counts.completed) == (BatchStatus.BATCH_STATUS_COMPLETED, 6)
    assert set(fake.calls.values()) == {1}


async def test_progress_is_shown_again_once_it_can_be_written(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(body: dict[str, Any], before: int) -> Response:
        if body["messages"][-1]["content"] != "quick":
            await gate.wait()
        return completion(body)

    async with fake_endpoint(slow) as fake:
        settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, max_concurrency=8))
        async with service(settings) as (_, client):
            with failing(sqlite3.SQLITE_IOERR, *PROGRESS, times=2):
                file = await client.upload(jsonl([chat_line("q", "quick"), chat_line("s", "slow")]))
                batch = await client.create(file.id)
                await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed == 1)
            gate.set()
            await client.ended(batch.id)


class Flawed(Lines):
    """The first call of line 7 fails by a fault of ours, while others are in flight."""

    def __init__(self) -> None:
        super().__init__(below=0)
        self.failed = False

    async def run(self, path: str, body: bytes, *, until: float, control: LineControl) -> Answer | Failure | None:
        if b'question 7"' in body and not self.failed:
            self.failed = True
            raise RuntimeError("a fault of ours")
        return await super().run(path, body, until=until, control=control)


async def test_a_line_that_fails_by_our_fault_breaks_off_no_other(tmp_path: Path, database: SqliteDatabase) -> None:
    tenant, lines = TenantRegistry(database, "default"), Flawed()
    store = FileStore(tmp_path / "store", Disk())

    async def failed() -> bool:
        return lines.failed

    async with engine(database, store, tmp_path / "journals", lines, Clock()) as holder:
        await add_input(tenant, store)
        batch = await new_batch(tenant, "file-input")
        holder.wake()
        await until(failed, bool)
        lines.thaw()
        await until(lambda: tenant.get_batch(batch.id), lambda seen: seen.status == Status.COMPLETED)
    assert Counter(lines.asked) == Counter(range(LINES))


async def test_why_a_batch_waits_is_shown_once_that_can_be_written(tmp_path: Path) -> None:
    away = asyncio.Event()

    async def endpoint(body: dict[str, Any], before: int) -> Response:
        return completion(body) if away.is_set() else Response(status_code=503)

    async with fake_endpoint(endpoint) as fake:
        settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, max_concurrency=8))
        async with service(settings) as (_, client):
            with failing(sqlite3.SQLITE_ERROR, *WAITING, times=2):
                file = await client.upload(jsonl([chat_line("a", "a")]))
                batch = await client.create(file.id)
                await until(lambda: client.get(batch.id), lambda seen: len(seen.placements) > 0)
            away.set()
            assert (await client.ended(batch.id)).request_counts.completed == 1
