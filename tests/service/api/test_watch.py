"""WatchBatch: the batch now and at each change, and an end that a client can tell from a stop."""

import asyncio
from functools import partial
from itertools import pairwise
from pathlib import Path

import grpc
from tests.harness import PATIENCE, Client, chat_lines, jsonl, refused, service, settings_for, until

from batchyard.service.config.settings import LocalSettings
from batchyard.v1 import Batch, BatchStatus, CancelBatchRequest, WatchBatchRequest, WatchBatchResponse

COMPLETED = BatchStatus.BATCH_STATUS_COMPLETED
SLOW = LocalSettings(echo=True, echo_delay_ms=60_000)


async def watched(client: Client, batch_id: str) -> list[Batch]:
    """Every state that a watch shows, to its end."""
    call = client.stub.WatchBatch(WatchBatchRequest(batch_id=batch_id), metadata=client.metadata)
    async with asyncio.timeout(PATIENCE):
        return [message.batch async for message in call]


async def shown(call: "grpc.aio.UnaryStreamCall[WatchBatchRequest, WatchBatchResponse]") -> Batch:
    """The next state that a watch shows."""
    message = await call.read()
    assert isinstance(message, WatchBatchResponse)
    return message.batch


async def test_a_watch_shows_progress_and_ends_with_the_batch(tmp_path: Path) -> None:
    local = LocalSettings(echo=True, echo_delay_ms=20, max_concurrency=4)
    async with service(settings_for(tmp_path, local=local)) as (_, client):
        file = await client.upload(jsonl(chat_lines(200)))
        states = await watched(client, (await client.create(file.id)).id)
        completed = [state.request_counts.completed for state in states]
        assert completed == sorted(completed)
        assert len(set(completed)) > 3
        assert states[-1].status == COMPLETED
        assert states[-1].output_file_id
        assert all(one != other for one, other in pairwise(states))


async def test_a_watch_of_an_ended_batch_shows_it_once(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        batch = await client.run(chat_lines(1))
        assert await watched(client, batch.id) == [batch]


async def test_a_cancel_is_seen_at_once_by_every_watcher(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path, local=SLOW)) as (_, client):
        file = await client.upload(jsonl(chat_lines(2)))
        batch = await client.create(file.id)
        request = WatchBatchRequest(batch_id=batch.id)
        calls = [client.stub.WatchBatch(request, metadata=client.metadata) for _ in range(20)]
        for call in calls:
            await until(partial(shown, call), lambda seen: seen.status == BatchStatus.BATCH_STATUS_IN_PROGRESS)
        await client.stub.CancelBatch(CancelBatchRequest(batch_id=batch.id), metadata=client.metadata)
        for call in calls:
            assert (await shown(call)).status == BatchStatus.BATCH_STATUS_CANCELLING
            call.cancel()


async def test_an_unknown_batch_is_not_found(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client), refused(grpc.StatusCode.NOT_FOUND):
        await watched(client, "batch_none")


async def test_a_stop_ends_watches_with_unavailable_and_watching_again_goes_on(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, local=SLOW)
    async with service(settings) as (server, client):
        file = await client.upload(jsonl(chat_lines(2)))
        batch = await client.create(file.id)
        call = client.stub.WatchBatch(WatchBatchRequest(batch_id=batch.id), metadata=client.metadata)
        await call.read()
        drain = asyncio.create_task(server.drain(PATIENCE))
        async with refused(grpc.StatusCode.UNAVAILABLE), asyncio.timeout(PATIENCE / 2):
            while await call.read() is not grpc.aio.EOF:
                pass
        drain.cancel()
    async with service(settings_for(tmp_path)) as (_, client):
        assert (await watched(client, batch.id))[-1].status == COMPLETED
