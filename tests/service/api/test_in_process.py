"""Calls from within the process, where a channel has ways of its own; tests/shim and tests/rest show the rest."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness import KEY, PATIENCE, service, settings_for, until

from batchyard.common.calls import CallError
from batchyard.common.tracing import OFF
from batchyard.service.api.in_process import DirectCaller, Handlers
from batchyard.shim.transcoding import SERVICE
from batchyard.v1 import (
    DownloadFileRequest,
    DownloadFileResponse,
    ListBatchesRequest,
    UploadFileRequest,
    UploadFileResponse,
)

LIST, UPLOAD, GET, DOWNLOAD = (
    SERVICE.methods_by_name[name] for name in ("ListBatches", "UploadFile", "GetBatch", "DownloadFile")
)
BEARER = [("authorization", f"Bearer {KEY}")]


class Slow:
    """Handlers that wait, one of them for each message of an upload."""

    def __init__(self) -> None:
        self.go_on, self.taken, self.begun = asyncio.Event(), 0, 0

    def caller(self, most: int = 10) -> DirectCaller:
        unary: Any = grpc.stream_unary_rpc_method_handler(self.wait)
        upload: Any = grpc.stream_unary_rpc_method_handler(self.take)
        handlers = Handlers()
        download: Any = grpc.stream_stream_rpc_method_handler(self.give)
        methods = {"ListBatches": unary, "UploadFile": upload, "DownloadFile": download}
        handlers.add_registered_method_handlers(SERVICE.full_name, methods)
        return DirectCaller(handlers, [], most, OFF, "")

    async def wait(self, _: object, __: object) -> None:
        await self.go_on.wait()

    async def take(self, _: object, context: Any) -> UploadFileResponse:
        while (await context.read()) is not grpc.aio.EOF:
            self.taken += 1
            await self.go_on.wait()
        return UploadFileResponse()

    async def give(self, _: object, context: Any) -> None:
        for _ in range(5):
            self.begun += 1
            await context.write(DownloadFileResponse(data=b"x"))


@pytest.fixture
def slow() -> Slow:
    return Slow()


def listing(caller: DirectCaller, deadline: float = PATIENCE) -> asyncio.Task[Any]:
    call = caller.unary(LIST, ListBatchesRequest(), metadata=BEARER, deadline=deadline)
    return asyncio.create_task(call)


async def refused(call: asyncio.Task[Any]) -> grpc.StatusCode:
    with pytest.raises(CallError) as error:
        await call
    return error.value.code


async def test_a_call_that_runs_when_the_service_closes_is_cancelled_and_later_ones_are_refused(slow: Slow) -> None:
    caller = slow.caller()
    running = listing(caller)
    await asyncio.sleep(0)
    await caller.close()
    assert await refused(running) is grpc.StatusCode.CANCELLED
    assert await refused(listing(caller)) is grpc.StatusCode.UNAVAILABLE


async def test_so_many_run_at_once_and_no_more(slow: Slow) -> None:
    caller = slow.caller(most=1)
    running = listing(caller)
    await asyncio.sleep(0)
    assert await refused(listing(caller)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    slow.go_on.set()
    await running
    await listing(caller)


async def test_a_late_call_is_cancelled(slow: Slow) -> None:
    caller = slow.caller(most=1)
    assert await refused(listing(caller, deadline=0.01)) is grpc.StatusCode.DEADLINE_EXCEEDED
    slow.go_on.set()
    await listing(caller)  # it has left its place


async def test_an_unknown_method_is_unimplemented(slow: Slow) -> None:
    call = slow.caller().unary(GET, ListBatchesRequest(), metadata=BEARER, deadline=PATIENCE)
    assert await refused(asyncio.create_task(call)) is grpc.StatusCode.UNIMPLEMENTED


async def test_a_download_is_one_message_ahead_of_its_reader(slow: Slow) -> None:
    async with slow.caller().download(DOWNLOAD, DownloadFileRequest(), metadata=BEARER) as messages:
        for taken in range(1, 5):
            assert (await anext(messages)).data == b"x"
            for _ in range(10):
                await asyncio.sleep(0)
            assert slow.begun == taken + 1
        assert [message.data async for message in messages] == [b"x"]


async def test_an_upload_runs_one_message_ahead(slow: Slow) -> None:
    sent = 0

    async def send(upload: Any) -> None:
        nonlocal sent
        for _ in range(5):
            await upload.write(UploadFileRequest(data=b"x"))
            sent += 1

    async def counts() -> tuple[int, int]:
        return slow.taken, sent

    async with slow.caller().upload(UPLOAD, metadata=BEARER) as upload:
        sending = asyncio.create_task(send(upload))
        await until(counts, lambda seen: seen == (1, 2))
        for _ in range(10):
            await asyncio.sleep(0)
        assert (slow.taken, sent) == (1, 2)
        slow.go_on.set()
        await sending
        assert isinstance(await upload.result(), UploadFileResponse)
    assert slow.taken == 5


async def test_keys_are_asked_for_and_a_drained_service_refuses(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (server, _):
        call = server.caller.unary(LIST, ListBatchesRequest(), metadata=[], deadline=PATIENCE)
        assert await refused(asyncio.create_task(call)) is grpc.StatusCode.UNAUTHENTICATED
        await listing(server.caller)
        await server.drain(PATIENCE)
        assert await refused(listing(server.caller)) is grpc.StatusCode.UNAVAILABLE
