"""Reads of a batch that go on to its provider each time: how many a second, what each costs and how long it takes."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.bench import asking, provider
from tests.bench.load import IN_FLIGHT, Load, asked, load, request
from tests.bench.measure import CONTROL, CPU, RATE, Row, compared, on_each, units
from tests.bench.sides import TENANT_KEY, Side, sides
from tests.processes import Process, process

MANY = 256
NAME = "REST get, upstream each"


class Asked(NamedTuple):
    """Who is asked for a batch, and how; the processes that answer, but for the provider."""

    port: int
    watched: Sequence[Process]
    get: bytes


async def figures(folder: Path, rounds: int, seconds: float) -> list[Row]:
    """Each measurement takes `seconds`; the control is the same load on the provider itself."""
    with process(folder / "provider.log", "tests.bench.provider", "0") as running:
        port = await running.port("provider on")
        async with sides(folder, port, echo=True) as both:
            whats = {CONTROL: await direct(port, running)} | {side.name: await through(side) for side in both}

            async def fast(what: Asked) -> tuple[float, float]:
                done = await each(what, port, IN_FLIGHT, seconds)
                return done.rate, done.cpu_ms

            async def percentile(percent: int, at_once: int, what: Asked) -> tuple[float]:
                return ((await each(what, port, at_once, seconds)).percentile_ms(percent),)

            alone, crowded = partial(percentile, 50, 1), partial(percentile, 99, MANY)
            return [
                *await compared(rounds, units(NAME, RATE, CPU), on_each(fast, whats)),
                *await compared(rounds, units(f"{NAME}, 1 in flight", "p50 ms"), on_each(alone, whats)),
                *await compared(rounds, units(f"{NAME}, {MANY} in flight", "p99 ms"), on_each(crowded, whats)),
            ]


async def through(side: Side) -> Asked:
    """How a side is asked for a batch at the provider, so that it asks there each time."""
    key = asking.key(TENANT_KEY)
    batch_id = await asking.new_batch(side.rest, key, "/openai/v1")
    return Asked(side.rest, side.processes, asking.get(batch_id, {**key, "cache-control": "no-cache"}, "/openai/v1"))


async def direct(port: int, running: Process) -> Asked:
    """How the provider itself is asked."""
    key = asking.key(provider.KEY)
    return Asked(port, (running,), asking.get(await asking.new_batch(port, key), key))


async def each(what: Asked, provider_port: int, at_once: int, seconds: float) -> Load:
    """A load of which every call has been seen at the provider."""
    before = await _gets(provider_port)
    done = await load(what.port, what.get, at_once, seconds, what.watched)
    if (came := await _gets(provider_port) - before) < done.calls:
        raise AssertionError(f"of {done.calls} calls only {came} went upstream")
    return done


async def _gets(port: int) -> int:
    count: int = json.loads(await asked(port, request("GET", "/counted")))["gets"]
    return count
