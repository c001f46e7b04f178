"""Lines a second of the engine against a bare loop with the same HTTP client on the same endpoint."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import aiohttp
import grpc
from tests.bench.load import HOST
from tests.bench.measure import CONTROL, Measure, Row, compared, cpu_seconds, units
from tests.bench.sides import TENANT_KEY, Side, sides
from tests.harness import ENDED, Client, chat_lines, jsonl, until
from tests.processes import process

from batchyard.v1 import BatchStatus

CONCURRENCY = 64
_LOOK_SECONDS = 0.1  # rarely, since to be looked at costs too


async def figures(folder: Path, rounds: int, count: int) -> list[Row]:
    """`count` lines a round; the engine's time is a caller's, from creating the batch to seeing it completed."""
    lines = chat_lines(count)
    bodies = [json.dumps(line["body"]).encode() for line in lines]
    async with AsyncExitStack() as stack:
        endpoint = stack.enter_context(process(folder / "endpoint.log", "tests.endpoint"))
        api_base = f"http://{HOST}:{await endpoint.port('endpoint on')}/v1"
        measures: dict[str, Measure] = {CONTROL: partial(_bare_loop, api_base, bodies)}
        for side in await stack.enter_async_context(sides(folder, api_base=api_base, max_concurrency=CONCURRENCY)):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"{HOST}:{side.grpc}"))
            client = Client(channel, TENANT_KEY)
            file_id = (await client.upload(jsonl(lines))).id
            measures[side.name] = partial(_engine, side, client, file_id)
        name = f"durable lines, {CONCURRENCY} in flight"
        return await compared(rounds, units(name, "lines/s", "lines/s a core"), measures)


async def _engine(side: Side, client: Client, file_id: str) -> tuple[float, float]:
    start, cpu = perf_counter(), cpu_seconds(side.processes)
    batch = await client.create(file_id)
    batch = await until(
        partial(client.get, batch.id), lambda batch: batch.status in ENDED, patience=300, every=_LOOK_SECONDS
    )
    seconds, cpu = perf_counter() - start, cpu_seconds(side.processes) - cpu
    assert batch.status == BatchStatus.BATCH_STATUS_COMPLETED
    return batch.request_counts.completed / seconds, batch.request_counts.completed / cpu


async def _bare_loop(api_base: str, bodies: Sequence[bytes]) -> tuple[float, float]:
    """The client's own CPU counts."""

    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers, raise_for_status=True) as session:
        left = iter(bodies)

        async def worker() -> None:
            for body in left:
                async with session.post(f"{api_base}/chat/completions", data=body) as response:
                    assert json.loads(await response.read())["choices"]

        start, cpu = perf_counter(), process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(worker())
        return len(bodies) / (perf_counter() - start), len(bodies) / (process_time() - cpu)
