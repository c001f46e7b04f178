"""Calls a second, REST and gRPC: reading a batch and creating one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import aiohttp
import grpc
from tests.bench.controls import ECHO
from tests.bench.measure import IN_FLIGHT, Figure, calls_a_second, compared
from tests.harness import KEY, Client, chat_lines, jsonl
from tests.processes import batchyard, configure, process

Call = Callable[[], Awaitable[object]]


class _Ready(NamedTuple):
    """A running service with a batch to read and a file to create more from."""

    address: str
    client: Client
    file_id: str
    batch_id: str


async def figures(folder: Path, rounds: int, count: int) -> list[Figure]:
    """`count` reads and a quarter as many creations a round. What is created waits for its turn: no lines run."""
    configure(folder, echo=True, echo_delay_ms=60_000, max_active_batches=1)
    async with _ready(folder) as ready:
        over_rest = await _rest(folder, ready, rounds, count)
    async with _ready(folder) as ready:
        return over_rest + await _grpc(folder, ready, rounds, count)


@asynccontextmanager
async def _ready(folder: Path) -> AsyncIterator[_Ready]:
    with TemporaryDirectory(dir=folder) as data, batchyard(folder, "service", "--data-dir", data) as service:
        address = f"127.0.0.1:{await service.port()}"
        async with grpc.aio.insecure_channel(address) as channel:
            client = Client(channel)
            file_id = (await client.upload(jsonl(chat_lines(3)))).id
            yield _Ready(address, client, file_id, (await client.create(file_id)).id)


async def _grpc(folder: Path, ready: _Ready, rounds: int, count: int) -> list[Figure]:
    client = ready.client
    payload = (await client.get(ready.batch_id)).SerializeToString()
    with process(folder / "unary.log", "tests.bench.controls", "unary") as control:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await control.port('unary on')}") as channel:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)

            async def echo() -> None:
                await method(payload)

            return [
                await _compared("gRPC get", rounds, count, lambda: client.get(ready.batch_id), echo),
                await _compared("gRPC create", rounds, count // 4, lambda: client.create(ready.file_id), echo),
            ]


async def _rest(folder: Path, ready: _Ready, rounds: int, count: int) -> list[Figure]:
    new = {"input_file_id": ready.file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with (
        batchyard(folder, "shim", "--service", ready.address) as shim,
        process(folder / "rest.log", "tests.bench.controls", "rest") as control,
    ):
        ours = f"http://127.0.0.1:{await shim.port('REST on')}/v1/batches"
        bare = f"http://127.0.0.1:{await control.port('rest on')}/"
        connector = aiohttp.TCPConnector(limit=2 * IN_FLIGHT)
        headers = {"authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(connector=connector, headers=headers, raise_for_status=True) as session:

            def get(url: str) -> Call:
                return lambda: _read(session.get(url))

            def post(url: str) -> Call:
                return lambda: _read(session.post(url, json=new))

            return [
                await _compared("REST get", rounds, count, get(f"{ours}/{ready.batch_id}"), get(bare)),
                await _compared("REST create", rounds, count // 4, post(ours), post(bare)),
            ]


async def _read(request: "aiohttp.client._RequestContextManager") -> None:
    async with request as response:
        await response.read()


async def _compared(name: str, rounds: int, count: int, ours: Call, control: Call) -> Figure:
    await calls_a_second(ours, IN_FLIGHT)  # connections, caches
    return await compared(
        name, "calls/s", rounds, lambda: calls_a_second(ours, count), lambda: calls_a_second(control, count)
    )
