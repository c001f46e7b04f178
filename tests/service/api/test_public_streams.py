"""Streams that need no key are few at once, so that nobody can crowd out the calls that have one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.harness import PATIENCE, Client, service, settings_for, until

from batchyard.service.server import Server
from batchyard.v1 import ListFilesRequest

MOST = 64
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
REQUEST = health_pb2.HealthCheckRequest(service="batchyard.v1.BatchService")


@asynccontextmanager
async def crowded(folder: Path) -> AsyncIterator[tuple[grpc.aio.Channel, Server, Client, list[Any]]]:
    """A service, as many health watches as it has places for, and the channel that they are on."""
    async with AsyncExitStack() as stack:
        server, client = await stack.enter_async_context(service(settings_for(folder)))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}"))
        watches = [watch(channel) for _ in range(MOST)]
        for each in watches:
            assert (await each.read()).status == health_pb2.HealthCheckResponse.SERVING
        yield channel, server, client, watches


def watch(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(REQUEST)


async def admitted(channel: grpc.aio.Channel) -> bool:
    """Whether there was a place for one more."""
    call = watch(channel)
    with suppress(grpc.aio.AioRpcError):
        await asyncio.wait_for(call.read(), PATIENCE / 2)
        call.cancel()
        return True
    assert await call.code() is FULL
    return False


async def test_a_stream_too_many_is_refused_whatever_its_kind(tmp_path: Path) -> None:
    async with crowded(tmp_path) as (channel, _, _, _):
        assert not await admitted(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(asked))
        assert await call.code() is FULL


async def test_calls_with_a_key_and_single_health_checks_go_on_meanwhile(tmp_path: Path) -> None:
    async with crowded(tmp_path) as (channel, _, client, _):
        assert not (await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)).data
        file = await client.upload(b"hello", purpose="user_data")
        assert await client.read(file.id) == b"hello"
        assert (await health_pb2_grpc.HealthStub(channel).Check(REQUEST)).status == 1


async def test_a_place_comes_back_when_its_stream_is_cancelled(tmp_path: Path) -> None:
    async with crowded(tmp_path) as (channel, _, _, watches):
        watches[0].cancel()
        assert await until(lambda: admitted(channel), bool)


async def test_places_come_back_when_their_client_is_gone(tmp_path: Path) -> None:
    async with crowded(tmp_path) as (channel, server, _, _):
        await channel.close()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as other:
            assert await until(lambda: admitted(other), bool)
            again = []
            for _ in range(MOST):
                again.append(watch(other))
                await again[-1].read()
            assert [call.done() for call in again] == [False] * MOST
