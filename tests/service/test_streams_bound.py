"""Streams that last have a bound of their own: other calls and health checks keep their places."""

import asyncio
from pathlib import Path

from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.harness import chat_lines, jsonl, refused, service, settings_for, until
from tests.statuses import told

from batchyard.service.settings import Limits, LocalSettings
from batchyard.v1 import ListBatchesRequest, WatchBatchRequest


async def test_watches_leave_places_for_other_calls(tmp_path: Path) -> None:
    slow = LocalSettings(echo=True, echo_delay_ms=60_000)
    settings = settings_for(tmp_path, local=slow, limits=Limits(max_concurrent_calls=8))
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

        async def another() -> bool:
            try:
                return bool(await client.stub.WatchBatch(request, metadata=client.metadata).read())
            except aio.AioRpcError:  # the service has not heard of the cancellation yet
                return False

        assert await until(another, bool)
