"""Calls that the registry answers, a second and what each costs: reading a batch and creating one, REST and gRPC."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import grpc
from tests.bench import asking
from tests.bench.controls import ECHO
from tests.bench.load import HOST, IN_FLIGHT, load, request
from tests.bench.measure import CONTROL, CPU, RATE, Row, compared, cpu_seconds, on_each, units
from tests.bench.sides import TENANT_KEY, Side, sides
from tests.harness import Client, chat_lines, jsonl
from tests.processes import Process, process

_WAITING = {"echo": True, "echo_delay_ms": 60_000, "max_active_batches": 1}


class _Asked(NamedTuple):
    """What a side, or the control, is asked over REST."""

    port: int
    watched: Sequence[Process]
    get: bytes
    create: bytes


class _Called(NamedTuple):
    """A call over gRPC, and who answers it."""

    call: Callable[[], Awaitable[object]]
    server: Process


async def figures(folder: Path, rounds: int, seconds: float) -> list[Row]:
    """Each measurement takes `seconds`. What is created waits for its turn: no lines run."""
    with (
        process(folder / "rest.log", "tests.bench.controls", "rest") as rest,
        process(folder / "unary.log", "tests.bench.controls", "unary") as unary,
    ):
        bare = _Asked(await rest.port("rest on"), (rest,), request("GET", "/"), request("POST", "/", body=b'{"a": 1}'))
        async with sides(folder, **_WAITING) as both:
            whats = {CONTROL: bare} | {side.name: await _ready(side) for side in both}
            return [
                *await _rest("REST get, from the registry", whats, lambda what: what.get, rounds, seconds),
                *await _grpc(both, unary, rounds, seconds),
                # Last, since the engine looks at what was created for a while afterwards.
                *await _rest("REST create, durable", whats, lambda what: what.create, rounds, seconds),
            ]


async def _ready(side: Side) -> _Asked:
    key = asking.key(TENANT_KEY)
    file_id = await asking.new_file(side.rest, key)
    batch_id = await asking.new_batch(side.rest, key)
    return _Asked(side.rest, side.processes, asking.get(batch_id, key), asking.create(file_id, key))


async def _rest(
    name: str, whats: dict[str, _Asked], wire: Callable[[_Asked], bytes], rounds: int, seconds: float
) -> list[Row]:
    async def measure(what: _Asked) -> tuple[float, float, float]:
        done = await load(what.port, wire(what), IN_FLIGHT, seconds, what.watched)
        return done.rate, done.cpu_ms, done.own_cpu_ms

    return await compared(rounds, units(name, RATE, CPU, "CPU ms of the client"), on_each(measure, whats))


async def _grpc(both: list[Side], unary: Process, rounds: int, seconds: float) -> list[Row]:
    """Of one process each: `serve`, and the service of the other side."""
    async with AsyncExitStack() as stack:
        called = {}
        for side in both:
            client = Client(await _channel(stack, side.grpc), TENANT_KEY)
            batch = await client.create((await client.upload(jsonl(chat_lines(3)))).id)
            called[side.name] = _Called(partial(client.get, batch.id), side.processes[0])
        payload = batch.SerializeToString()
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        method = (await _channel(stack, await unary.port("unary on"))).unary_unary(ECHO)

        async def echo() -> None:
            await method(payload)

        async def measure(what: _Called) -> tuple[float, float]:
            return await _repeated(what, seconds)

        measures = on_each(measure, {CONTROL: _Called(echo, unary), **called})
        return await compared(rounds, units("gRPC get, from the registry", RATE, CPU), measures)


async def _channel(stack: AsyncExitStack, port: int) -> grpc.aio.Channel:
    return await stack.enter_async_context(grpc.aio.insecure_channel(f"{HOST}:{port}"))


async def _repeated(what: _Called, seconds: float) -> tuple[float, float]:
    """Calls a second, IN_FLIGHT at once, and the server's CPU for each."""
    cpu, began, done = cpu_seconds([what.server]), perf_counter(), 0

    async def worker() -> None:
        nonlocal done
        while perf_counter() < began + seconds:
            await what.call()
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(worker())
    took = perf_counter() - began
    return done / took, 1000 * (cpu_seconds([what.server]) - cpu) / done
