"""What a call sends: how long it may take to come, how many may wait for it, and what is no message at all."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests.harness import figures, jsonl, keys_of, refused, service, settings_for, until
from tests.statuses import told, trailer

from batchyard.service.api import message_reader
from batchyard.service.api.authentication import KeyInterceptor
from batchyard.service.api.call_interceptor import CallInterceptor
from batchyard.service.api.message_reader import Context
from batchyard.service.config.settings import Limits
from batchyard.v1 import (
    BatchServiceServicer,
    BatchServiceStub,
    GetBatchRequest,
    GetBatchResponse,
    add_BatchServiceServicer_to_server,
)

GET, CREATE, LIST, WATCH, UPLOAD = (
    f"/batchyard.v1.BatchService/{name}"
    for name in ("GetBatch", "CreateBatch", "ListBatches", "WatchBatch", "UploadFile")
)
CHECK, HEALTH_WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
PLACES = 16
GARBAGE = b"\xff\xff\xff"
NO_MESSAGE = "The request is not a message of the type that this method takes."


class Answering(BatchServiceServicer):
    async def GetBatch(self, request: GetBatchRequest, context: Context) -> GetBatchResponse:  # noqa: N802
        return GetBatchResponse()


@asynccontextmanager
async def door(message_seconds: float) -> AsyncIterator[aio.Channel]:
    """A channel to a server of few places."""
    limits = Limits(max_concurrent_calls=PLACES)
    calls = CallInterceptor(60, limits, figures(), message_seconds=message_seconds)
    server = aio.server(interceptors=[calls, KeyInterceptor(keys_of(None))], maximum_concurrent_rpcs=PLACES)
    add_BatchServiceServicer_to_server(Answering(), server)  # type: ignore[abstract]  # one RPC will do
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


def head(channel: aio.Channel, method: str) -> Any:
    """A call of which only the head comes."""
    return channel.stream_stream(method)()


async def code_of(asked: Any) -> StatusCode:
    with suppress(aio.AioRpcError):
        await asked
    code: StatusCode = await asked.code()
    return code


def call(channel: aio.Channel, method: str, *messages: bytes, metadata: Any = ()) -> Any:
    """A call that sends these bytes, and no more."""
    stream: Any = channel.stream_stream(method)
    return stream(iter(messages), metadata=metadata)


class TestAMessage:
    @pytest.mark.parametrize("method", [GET, WATCH, CHECK, HEALTH_WATCH])
    async def test_that_does_not_come_ends_its_call(self, method: str, caplog: pytest.LogCaptureFixture) -> None:
        async with door(0.05) as channel, refused(StatusCode.DEADLINE_EXCEEDED) as found:
            await head(channel, method).read()
        assert found[0].details() == "No message came in 0.05 seconds."
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_that_does_not_come_leaves_its_place_to_others(self) -> None:
        async with door(0.05) as channel:
            late = [head(channel, GET) for _ in range(PLACES * 2)]
            codes = set(await asyncio.gather(*(each.code() for each in late)))
            assert codes <= {StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED}

            async def answered() -> bool:
                return await code_of(BatchServiceStub(channel).GetBatch(GetBatchRequest())) is StatusCode.OK

            assert await until(answered, bool)

    async def test_that_is_too_large_is_refused_before_it_is_parsed(self) -> None:
        large = GetBatchRequest(batch_id="x" * message_reader.MOST_MESSAGE).SerializeToString()
        async with door(60) as channel, refused(StatusCode.INVALID_ARGUMENT) as found:
            await call(channel, GET, large).read()
        text = f"The request has {len(large)} bytes, more than the maximum of {message_reader.MOST_MESSAGE}."
        assert found[0].details() == text

    @pytest.mark.parametrize("method", [GET, WATCH, CHECK])
    async def test_must_be_there(self, method: str) -> None:
        async with door(60) as channel, refused(StatusCode.INVALID_ARGUMENT) as found:
            await call(channel, method).read()
        assert found[0].details() == "The call has no message."


class TestCallsWithoutAKey:
    async def test_that_wait_leave_most_places_to_others(self) -> None:
        async with door(60) as channel:
            waiting = [head(channel, CHECK) for _ in range(PLACES * 2)]

            async def ended() -> list[StatusCode]:
                return [await each.code() for each in waiting if each.done()]

            refusals = await until(ended, lambda codes: len(codes) >= PLACES * 2 - PLACES // 8)
            assert set(refusals) == {StatusCode.RESOURCE_EXHAUSTED}
            assert await BatchServiceStub(channel).GetBatch(GetBatchRequest())
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert await code_of(check) is StatusCode.RESOURCE_EXHAUSTED
            for each in waiting:
                each.cancel()

            async def checked() -> bool:
                again = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                return await code_of(again) is StatusCode.OK

            assert await until(checked, bool)


class TestGarbage:
    @pytest.mark.parametrize(
        ("method", "sent"),
        [(GET, GARBAGE), (CREATE, b"\x0a\x02\xff\xff"), (WATCH, GARBAGE), (UPLOAD, GARBAGE)],
        ids=["unary", "text", "watch", "upload"],
    )
    async def test_is_refused_as_any_bad_input_is(
        self, tmp_path: Path, method: str, sent: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        log = tmp_path / "audit"
        async with service(settings_for(tmp_path, audit_log=log, audit_reads=True)) as (_, client):
            metadata = (*client.metadata, ("x-request-id", "mine"))
            async with refused(StatusCode.INVALID_ARGUMENT) as found:
                await call(client.channel, method, sent, metadata=metadata).read()
        assert (told(found[0]).reason, told(found[0]).message) == ("INVALID_ARGUMENT", NO_MESSAGE)
        assert trailer(found[0].trailing_metadata(), "x-request-id") == "mine"
        (line,) = [json.loads(line) for line in log.read_text().splitlines()]
        assert (line["request_id"], line["code"]) == ("mine", "INVALID_ARGUMENT")
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_after_good_messages_ends_an_upload(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            good = b"\x0a\x07\x0a\x05batch"
            async with refused(StatusCode.INVALID_ARGUMENT) as found:
                await call(client.channel, UPLOAD, good, GARBAGE, metadata=client.metadata).read()
            assert told(found[0]).message == NO_MESSAGE
            assert await client.upload(jsonl([{}]))

    async def test_is_not_looked_at_where_the_key_is_wrong(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (_, client), refused(StatusCode.UNAUTHENTICATED):
            await call(client.channel, GET, GARBAGE, metadata=client.having("wrong").metadata).read()

    @pytest.mark.parametrize("method", [CHECK, REFLECTION])
    async def test_is_refused_where_no_key_is_needed(
        self, tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with service(settings_for(tmp_path)) as (_, client), refused(StatusCode.INVALID_ARGUMENT) as found:
            await call(client.channel, method, GARBAGE).read()
        assert found[0].details() == NO_MESSAGE
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
