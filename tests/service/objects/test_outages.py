"""A service whose store goes away for a while, and comes back: nothing is called lost, and what was begun is finished.

The store is one in memory, which shows too that the service runs over another than its own.
"""

from pathlib import Path
from time import time
from typing import Any

import pytest
from grpc import StatusCode
from tests.fakes import Gate, completion, fake_endpoint
from tests.harness import Client, chat_lines, jsonl, refused, service, settings_for, until
from tests.memory_store import MemoryStore

from batchyard.service.config.settings import LocalSettings, RetentionSettings
from batchyard.v1 import BatchStatus, DeleteFileRequest

INPUT = jsonl(chat_lines(3))


async def keys(store: MemoryStore) -> list[str]:
    return [one.key async for one in store.listed("", time() + 60)]


async def delete(client: Client, file_id: str) -> None:
    await client.stub.DeleteFile(DeleteFileRequest(file_id=file_id), metadata=client.metadata)


async def test_files_are_neither_taken_nor_called_lost(tmp_path: Path) -> None:
    store = MemoryStore()
    async with service(settings_for(tmp_path), open_store=store.opened) as (_, client):
        file = await client.upload(INPUT)
        with store.unreachable():
            async with refused(StatusCode.UNAVAILABLE):
                await client.read(file.id)
            async with refused(StatusCode.UNAVAILABLE):
                await client.upload(INPUT)
        assert await client.read(file.id) == INPUT
        assert await keys(store) == [f"files/{file.id}"]


async def test_a_file_that_is_deleted_meanwhile_is_gone_and_its_bytes_go_later(tmp_path: Path) -> None:
    store = MemoryStore()
    settings = settings_for(tmp_path, retention=RetentionSettings(sweep_seconds=0.02))
    async with service(settings, open_store=store.opened) as (_, client):
        file = await client.upload(INPUT)
        with store.unreachable():
            await delete(client, file.id)
            async with refused(StatusCode.NOT_FOUND):
                await client.read(file.id)
        await until(lambda: keys(store), lambda found: not found)


async def test_a_batch_waits_with_its_results_and_asks_for_none_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, gate = MemoryStore(), Gate()

    async def answer(body: dict[str, Any], before: int) -> Any:
        await gate.passed()
        return completion(body)

    async def failures() -> int:
        return sum("batch is stuck" in record.message for record in caplog.records)

    async with fake_endpoint(answer) as fake:
        settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base))
        async with service(settings, open_store=store.opened) as (_, client):
            batch = await client.create((await client.upload(INPUT)).id)
            await until(lambda: client.get(batch.id), lambda seen: fake.calls.total() == 3)
            with store.unreachable():
                gate.open()
                await until(failures, lambda seen: seen >= 2)
            ended = await client.ended(batch.id)
            assert (ended.status, ended.request_counts.completed) == (BatchStatus.BATCH_STATUS_COMPLETED, 3)
            assert len(await client.results(ended.output_file_id)) == 3
            assert fake.calls.total() == 3


async def test_what_was_stored_is_there_for_the_next_service(tmp_path: Path) -> None:
    store, settings = MemoryStore(), settings_for(tmp_path)
    async with service(settings, open_store=store.opened) as (_, client):
        batch = await client.run(chat_lines(3))
    async with service(settings, open_store=store.opened) as (_, client):
        assert await client.read(batch.input_file_id) == INPUT
        assert len(await client.results(batch.output_file_id)) == 3
    assert not (tmp_path / "data/store").exists()
