"""A running batch whose input is damaged ends with what it has: all results that were shown are in its files."""

import os
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from tests.fakes import FakeEndpoint, Gate, completion, fake_endpoint
from tests.harness import Client, chat_lines, jsonl, service, settings_for, until

from batchyard.service.config.settings import LocalSettings, Settings
from batchyard.v1 import Batch, BatchStatus, CancelBatchRequest

LINES, CHUNK, DONE = 20, 5, 8  # at the damage one chunk is sealed and the next one begun


def damaged(path: Path, how: str) -> None:
    if how == "cut":
        os.truncate(path, 10)
    elif how == "flipped":
        content = path.read_bytes()
        path.write_bytes(content.replace(b"question 12", b"question 13"))
    else:
        path.unlink()


async def half_done(settings: Settings, *, cancel: bool = False) -> Batch:
    """A batch of which `DONE` lines have a result, in a service that has stopped."""
    async with service(settings) as (server, client):
        batch = await client.create((await client.upload(jsonl(chat_lines(LINES)))).id)
        await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed == DONE)
        if cancel:
            await client.stub.CancelBatch(CancelBatchRequest(batch_id=batch.id), metadata=client.metadata)
        await server.drain(0)
        return batch


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def fake(gate: Gate) -> Any:

    async def answer(body: dict[str, Any], before: int) -> Response:
        if int(body["messages"][-1]["content"].split()[1]) >= DONE:
            await gate.passed()
        return completion(body)

    async with fake_endpoint(answer) as running:
        yield running
        gate.open()


async def ids(client: Client, file_id: str) -> list[str]:
    return [line["custom_id"] for line in await client.results(file_id)]


@pytest.mark.parametrize("how", ["cut", "flipped", "removed"])
async def test_the_batch_fails_with_its_reason_and_keeps_its_results(
    tmp_path: Path, fake: FakeEndpoint, how: str
) -> None:
    settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, chunk_lines=CHUNK))
    batch = await half_done(settings)
    damaged(tmp_path / "data/store/files" / batch.input_file_id, how)
    async with service(settings) as (_, client):
        ended = await client.ended(batch.id)
        assert ended.status == BatchStatus.BATCH_STATUS_FAILED
        assert [(error.code, error.param) for error in ended.errors.data] == [("input_lost", "input_file_id")]
        assert ended.failed_at
        counts = ended.request_counts
        assert (counts.total, counts.completed, counts.failed) == (LINES, DONE, 0)
        assert await ids(client, ended.output_file_id) == [f"request-{number}" for number in range(DONE)]
        assert not ended.HasField("error_file_id")
        assert not list((tmp_path / "data/work").iterdir())


async def test_a_cancelled_one_is_cancelled_and_keeps_its_results(tmp_path: Path, fake: FakeEndpoint) -> None:
    settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, chunk_lines=CHUNK))
    batch = await half_done(settings, cancel=True)
    damaged(tmp_path / "data/store/files" / batch.input_file_id, "cut")
    async with service(settings) as (_, client):
        ended = await client.ended(batch.id)
        assert ended.status == BatchStatus.BATCH_STATUS_CANCELLED
        assert await ids(client, ended.output_file_id) == [f"request-{number}" for number in range(DONE)]


async def test_one_whose_store_is_away_waits_and_loses_nothing(
    tmp_path: Path, fake: FakeEndpoint, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, chunk_lines=CHUNK))
    store, away = tmp_path / "data/store", tmp_path / "data/away"
    async with service(settings) as (_, client):
        batch = await client.create((await client.upload(jsonl(chat_lines(LINES)))).id)
        await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed == DONE)
        store.rename(away)
        store.touch()
        gate.open()

        async def logged() -> str:
            return caplog.text

        await until(logged, lambda text: "batch is stuck, will try again" in text)
        store.unlink()
        away.rename(store)
        ended = await client.ended(batch.id)
        assert ended.status == BatchStatus.BATCH_STATUS_COMPLETED
        assert await ids(client, ended.output_file_id) == [f"request-{number}" for number in range(LINES)]
        assert set(fake.calls.values()) == {1}
