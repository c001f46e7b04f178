"""Two thousand pollers at once meet no bound, where a process may have but 1,024 files open until it asks for more."""

import asyncio
import logging
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from tests.harness import KEY, Client, chat_lines, jsonl, settings_for
from tests.processes import Process, batchyard, configure

from batchyard.cli.open_files import fitted
from batchyard.service.config.settings import Limits

POLLERS = 2000
USUAL = 1024
PATIENCE = 120.0


@pytest.fixture
def usual_files() -> Iterator[None]:
    """What is started inherits what most machines begin with; this process has all that it may have afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * POLLERS + USUAL:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def allow_more() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * POLLERS + USUAL, hard))


async def new_batch(server: Process) -> str:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.port('gRPC on')}") as channel:
        client = Client(channel)
        return (await client.create((await client.upload(jsonl(chat_lines(1)))).id)).id


async def polled(port: int, batch_id: str, together: asyncio.Barrier) -> list[bytes]:
    """The status lines of two polls on one connection, which all pollers have open at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    async with together:
        pass
    for _ in range(2):
        writer.write(f"GET /v1/batches/{batch_id} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        found.append(head.split(b"\r\n")[0])
    async with together:
        pass
    writer.close()
    return found


async def poll_together(port: int, batch_id: str) -> None:
    allow_more()
    together = asyncio.Barrier(POLLERS)
    async with asyncio.timeout(PATIENCE):
        answers = await asyncio.gather(*(polled(port, batch_id, together) for _ in range(POLLERS)))
    assert {line for lines in answers for line in lines} == {b"HTTP/1.1 200 OK"}


@pytest.mark.usefixtures("usual_files")
async def test_over_rest(tmp_path: Path) -> None:
    configure(tmp_path, echo=True)
    with batchyard(tmp_path, "serve") as server:
        await poll_together(await server.port("REST on"), await new_batch(server))


@pytest.mark.usefixtures("usual_files")
async def test_over_rest_through_a_shim_of_its_own(tmp_path: Path) -> None:
    configure(tmp_path, echo=True)
    with batchyard(tmp_path, "service") as server:
        batch_id, at = await new_batch(server), f"127.0.0.1:{await server.port()}"
        with batchyard(tmp_path, "shim", "--service", at) as shim:
            await poll_together(await shim.port("REST on"), batch_id)


@pytest.mark.usefixtures("usual_files")
async def test_over_grpc(tmp_path: Path) -> None:
    configure(tmp_path, echo=True)
    with batchyard(tmp_path, "service") as server:
        batch_id = await new_batch(server)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.port('gRPC on')}") as channel:
            client = Client(channel)
            async with asyncio.timeout(PATIENCE):
                found = await asyncio.gather(*(client.get(batch_id) for _ in range(POLLERS)))
        assert {batch.id for batch in found} == {batch_id}


@pytest.mark.usefixtures("usual_files")
def test_more_calls_than_the_system_has_files_for_become_fewer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked = replace(settings_for(tmp_path), limits=Limits(max_concurrent_calls=max(hard, USUAL) + 1))
    with caplog.at_level(logging.WARNING, "batchyard.cli"):
        calls = fitted(asked).limits.max_concurrent_calls
    assert hard - 1000 < calls < hard
    assert f"max_concurrent_calls is {calls} instead of {hard + 1}" in caplog.text


@pytest.mark.usefixtures("usual_files")
def test_as_many_as_the_system_has_files_for_stay(tmp_path: Path) -> None:
    asked = settings_for(tmp_path)
    assert fitted(asked) is asked
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert asked.limits.max_concurrent_calls < soft < 2 * asked.limits.max_concurrent_calls
