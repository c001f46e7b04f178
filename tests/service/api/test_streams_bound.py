"""Streams that last have a bound of their own, and so has the tenant of a key: others keep their places."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.harness import KEY, Client, chat_lines, jsonl, refused, service, settings_for, until
from tests.statuses import told

from batchyard.service.config.settings import Key, Limits, LocalSettings, Quotas
from batchyard.v1 import ListBatchesRequest, WatchBatchRequest

SLOW = LocalSettings(echo=True, echo_delay_ms=60_000)
KEYS = (
    Key(name="a", key="key-a", tenant="a"),
    Key(name="a2", key="key-a2", tenant="a"),
    Key(name="b", key="key-b", tenant="b", limits=Quotas(requests_per_minute=3)),
)


@asynccontextmanager
async def watching(folder: Path, key: str, streams: int) -> AsyncIterator[tuple[Client, WatchBatchRequest, list[Any]]]:
    """A service with places for 12 streams, of which `key` has some: its client, what they asked, and they."""
    settings = settings_for(folder, local=SLOW, keys=KEYS, limits=Limits(max_concurrent_calls=16))
    async with service(settings) as (_, any_client):
        client = any_client.having(key)
        batch = await client.create((await client.upload(jsonl(chat_lines(1)))).id)
        request = WatchBatchRequest(batch_id=batch.id)
        watches = [client.stub.WatchBatch(request, metadata=client.metadata) for _ in range(streams)]
        assert await asyncio.gather(*(watch.read() for watch in watches))
        yield client, request, watches


async def admitted(client: Client, request: WatchBatchRequest) -> bool:
    """Whether there was a place for one more: the service may not have heard of a cancellation yet."""
    try:
        return bool(await client.stub.WatchBatch(request, metadata=client.metadata).read())
    except aio.AioRpcError:
        return False


async def test_the_tenant_of_a_key_has_a_quarter_of_the_places_for_all_its_keys(tmp_path: Path) -> None:
    async with watching(tmp_path, "key-a", 4) as (client, request, watches):
        for key in ("key-a", "key-a2"):
            mine = client.having(key)
            async with refused(StatusCode.RESOURCE_EXHAUSTED) as found:
                await mine.stub.WatchBatch(request, metadata=mine.metadata).read()
            error = told(found[0])
            assert error.message == "Tenant 'a' has 4 streams open, as many as it may. Try again soon."
            assert (error.reason, error.retry_after) == ("BUSY", 1)
        assert (await client.get(request.batch_id)).id == request.batch_id
        assert await client.having("key-b").upload(jsonl(chat_lines(1)))
        watches.pop().cancel()
        assert await until(lambda: admitted(client, request), bool)


async def test_a_refusal_needs_no_place_of_a_stream(tmp_path: Path) -> None:
    async with watching(tmp_path, KEY, 12) as (client, request, _):
        wrong, often = client.having("wrong"), client.having("key-b")
        async with refused(StatusCode.UNAUTHENTICATED):
            await wrong.get(request.batch_id)
        async with refused(StatusCode.UNAUTHENTICATED):
            await wrong.stub.WatchBatch(request, metadata=wrong.metadata).read()
        for _ in range(3):
            async with refused(StatusCode.NOT_FOUND):
                await often.get(request.batch_id)
        async with refused(StatusCode.RESOURCE_EXHAUSTED) as found:
            await often.get(request.batch_id)
        assert "requests_per_minute" in told(found[0]).message


async def test_watches_leave_places_for_other_calls(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, local=SLOW, limits=Limits(max_concurrent_calls=8))
    async with service(settings) as (server, client):
        batch = await client.create((await client.upload(jsonl(chat_lines(1)))).id)
        request = WatchBatchRequest(batch_id=batch.id)
        watches = [client.stub.WatchBatch(request, metadata=client.metadata) for _ in range(6)]
        assert await asyncio.gather(*(watch.read() for watch in watches))
        one_more = client.stub.WatchBatch(request, metadata=client.metadata)
        async with refused(StatusCode.RESOURCE_EXHAUSTED) as found:
            await one_more.read()
        assert (told(found[0]).reason, told(found[0]).retry_after) == ("BUSY", 1)
        listed = await client.stub.ListBatches(ListBatchesRequest(), metadata=client.metadata)
        assert [each.id for each in listed.data] == [batch.id]
        async with aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watches.pop().cancel()
        assert await until(lambda: admitted(client, request), bool)
