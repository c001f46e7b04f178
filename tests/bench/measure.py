"""What a measurement is: rounds of ours and of a control in turn, and the median of their ratios."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from statistics import median
from time import perf_counter
from typing import NamedTuple

IN_FLIGHT = 32

Round = Callable[[], Awaitable[float]]


class Figure(NamedTuple):
    """A line of the table. Rates are medians in `unit`; `ratios` has ours against the control of the same round."""

    name: str
    unit: str
    ours: float
    control: float
    ratios: list[float]

    def __str__(self) -> str:
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        label = f"{self.name}, {self.unit}"
        return f"{label:34}{self.ours:>9.0f}{self.control:>10.0f}{median(self.ratios):>8.2f}  {spread}"


HEADING = f"{'':34}{'ours':>9}{'control':>10}{'ratio':>8}  spread"


class Growth(NamedTuple):
    """How much a process's peak of resident memory rose, in bytes, at most over the rounds."""

    name: str
    process: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}, peak memory of the {self.process}: +{self.size / (1 << 20):.1f} MiB"


async def compared(name: str, unit: str, rounds: int, ours: Round, control: Round) -> Figure:
    """Measures both in turn, so that what else the machine does meets both alike."""
    pairs = [(await control(), await ours()) for _ in range(rounds)]
    controls, own = zip(*pairs, strict=True)
    return Figure(name, unit, median(own), median(controls), [mine / theirs for theirs, mine in pairs])


async def calls_a_second(call: Callable[[], Awaitable[object]], count: int) -> float:
    """The rate of `count` calls, IN_FLIGHT at once."""
    return await each_a_second((call for _ in range(count)), IN_FLIGHT)


async def each_a_second(calls: Iterable[Callable[[], Awaitable[object]]], at_once: int) -> float:
    """The rate at which `calls` are done, `at_once` at a time."""
    remaining = iter(calls)
    done = 0

    async def worker() -> None:
        nonlocal done
        for call in remaining:
            await call()
            done += 1

    start = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
    return done / (perf_counter() - start)
