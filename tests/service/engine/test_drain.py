"""A stop lets what runs end: health says so first, uploads finish, lines that run are kept, and a restart goes on."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.responses import Response
from tests.fakes import Gate, completion, fake_endpoint
from tests.harness import PATIENCE, Client, chat_lines, jsonl, refused, service, settings_for, until
from tests.statuses import told

from batchyard.service.config.settings import LocalSettings
from batchyard.service.server import Server
from batchyard.v1 import (
    BatchStatus,
    ListFilesRequest,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
)

SERVICE = "batchyard.v1.BatchService"
HALF = 1 << 18


def channel_to(server: Server) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}")


async def test_an_upload_that_runs_is_finished_and_kept(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (server, client):
        upload = client.stub.UploadFile(metadata=client.metadata)
        await upload.write(UploadFileRequest(metadata=UploadFileMetadata(purpose="user_data")))
        await upload.write(UploadFileRequest(data=b"a" * HALF))
        await upload.initial_metadata()
        drain = asyncio.create_task(server.drain(PATIENCE))
        await _until_refused(client)
        await upload.write(UploadFileRequest(data=b"b" * HALF))
        await upload.write(UploadFileRequest(finish=UploadFileFinish(size=2 * HALF)))
        await upload.done_writing()
        file = (await upload).file
        await drain
    async with service(settings) as (_, client):
        assert await client.read(file.id) == b"a" * HALF + b"b" * HALF


async def test_who_watches_the_health_is_told_and_does_not_hold_the_stop_up(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (server, _), channel_to(server) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        watch = health_pb2_grpc.HealthStub(channel).Watch(request)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        async with asyncio.timeout(PATIENCE / 2):
            await server.drain(PATIENCE)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def test_an_upload_that_outlasts_the_drain_leaves_nothing(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (server, client):
        upload = client.stub.UploadFile(metadata=client.metadata)
        await upload.write(UploadFileRequest(metadata=UploadFileMetadata(purpose="user_data")))
        await upload.write(UploadFileRequest(data=b"a" * (1 << 20)))
        await upload.initial_metadata()
        await server.drain(0.05)
        assert await upload.code() is StatusCode.UNAVAILABLE
    assert not [path for path in (tmp_path / "data/store").rglob("*") if path.is_file()]
    async with service(settings) as (_, client):
        assert not (await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)).data


async def test_health_says_not_serving_while_calls_still_run(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (server, client), channel_to(server) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        upload = client.stub.UploadFile(metadata=client.metadata)
        await upload.initial_metadata()
        drain = asyncio.create_task(server.drain(PATIENCE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not upload.done()
        watch.cancel()
        upload.cancel()
        await drain


async def test_lines_that_run_are_kept_and_a_restart_runs_only_the_others(tmp_path: Path) -> None:
    gate = Gate()

    async def held(body: dict[str, Any], before: int) -> Response:
        await gate.passed()
        return completion(body)

    async with fake_endpoint(held) as fake:
        settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, max_concurrency=4))
        async with service(settings) as (server, client):
            file = await client.upload(jsonl(chat_lines(20)))
            created = await client.create(file.id)

            async def at_once() -> int:
                return fake.at_once

            await until(at_once, lambda calls: calls == 4)
            drain = asyncio.create_task(server.drain(PATIENCE))
            await _until_refused(client)
            gate.open()
            await drain
            assert sum(fake.calls.values()) == 4
        async with service(settings) as (_, client):
            batch = await client.ended(created.id)
            results = await client.results(batch.output_file_id)
    assert batch.status == BatchStatus.BATCH_STATUS_COMPLETED
    assert [line["custom_id"] for line in results] == [f"request-{number}" for number in range(20)]
    assert set(fake.calls.values()) == {1}


async def test_lines_that_outlast_the_drain_run_again_after_a_restart(tmp_path: Path) -> None:
    gate = Gate()

    async def held(body: dict[str, Any], before: int) -> Response:
        await gate.passed()
        return completion(body)

    async with fake_endpoint(held) as fake:
        settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, max_concurrency=4))
        async with service(settings) as (server, client):
            file = await client.upload(jsonl(chat_lines(6)))
            created = await client.create(file.id)

            async def at_once() -> int:
                return fake.at_once

            await until(at_once, lambda calls: calls == 4)
            await server.drain(0.05)
        gate.open()
        async with service(settings) as (_, client):
            batch = await client.ended(created.id)
            assert len(await client.results(batch.output_file_id)) == batch.request_counts.completed == 6


async def test_a_call_during_the_drain_is_told_to_come_back(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (server, client):
        upload = client.stub.UploadFile(metadata=client.metadata)
        await upload.initial_metadata()
        drain = asyncio.create_task(server.drain(PATIENCE))
        await _until_refused(client)
        async with refused(StatusCode.UNAVAILABLE) as errors:
            await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)
        assert told(errors[0]).reason == "UNAVAILABLE"
        async with refused(StatusCode.UNAVAILABLE) as errors:
            await client.read("file-any")
        assert told(errors[0]).reason == "UNAVAILABLE"
        upload.cancel()
        await drain


async def test_lines_of_two_chunks_are_kept_though_one_ends_first(tmp_path: Path) -> None:
    first, second = Gate(), Gate()

    async def held(body: dict[str, Any], before: int) -> Response:
        await (first if body["messages"][-1]["content"] == "question 0" else second).passed()
        return completion(body)

    async with fake_endpoint(held) as fake:
        local = LocalSettings(api_base=fake.api_base, chunk_lines=2, max_concurrency=4)
        settings = settings_for(tmp_path, local=local)
        async with service(settings) as (server, client):
            created = await client.create((await client.upload(jsonl(chat_lines(3)))).id)

            async def at_once() -> int:
                return fake.at_once

            await until(at_once, lambda calls: calls == 3)
            drain = asyncio.create_task(server.drain(PATIENCE))
            await _until_refused(client)
            first.open()
            await until(at_once, lambda calls: calls == 2)
            second.open()
            await drain
        async with service(settings) as (_, client):
            assert (await client.ended(created.id)).request_counts.completed == 3
    assert set(fake.calls.values()) == {1}


async def _until_refused(client: Client) -> None:
    """Returns when new calls are refused."""

    async def code() -> StatusCode:
        return await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata).code()

    assert await until(code, lambda found: found is not StatusCode.OK) is StatusCode.UNAVAILABLE
