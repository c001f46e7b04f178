"""Lines a second of the engine against a bare loop with the same HTTP client on the same endpoint."""

import json
from functools import partial
from pathlib import Path
from time import perf_counter

import aiohttp
import grpc
import httpx
from httpx_aiohttp import AiohttpTransport
from tests.bench.measure import Figure, compared, each_a_second
from tests.harness import Client, chat_lines, jsonl
from tests.processes import batchyard, configure, process

from batchyard.v1 import BatchStatus

CONCURRENCY = 64


async def figures(folder: Path, rounds: int, count: int) -> list[Figure]:
    """`count` lines a round; the engine's time is a caller's, from creating the batch to seeing it completed."""
    lines = chat_lines(count)
    bodies = [json.dumps(line["body"]).encode() for line in lines]
    with process(folder / "endpoint.log", "tests.endpoint") as endpoint:
        api_base = f"http://127.0.0.1:{await endpoint.port('endpoint on')}/v1"
        configure(folder, api_base=api_base, max_concurrency=CONCURRENCY)
        with batchyard(folder) as service:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{await service.port()}") as channel:
                client = Client(channel)
                file_id = (await client.upload(jsonl(lines))).id
                ours, control = partial(_engine, client, file_id), partial(_bare_loop, api_base, bodies)
                return [await compared("engine", "lines/s", rounds, ours, control)]


async def _engine(client: Client, file_id: str) -> float:
    start = perf_counter()
    batch = await client.ended((await client.create(file_id)).id)
    seconds = perf_counter() - start
    assert batch.status == BatchStatus.BATCH_STATUS_COMPLETED
    return batch.request_counts.completed / seconds


async def _bare_loop(api_base: str, bodies: list[bytes]) -> float:
    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY))

    async with httpx.AsyncClient(base_url=api_base, transport=AiohttpTransport(client=session), timeout=60) as client:

        async def ask(body: bytes) -> None:
            response = await client.post("/chat/completions", content=body)
            assert response.json()["choices"]

        return await each_a_second((partial(ask, body) for body in bodies), CONCURRENCY)
