"""What a measurement is: rounds, in which the control and each side is measured in turn."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from tests.processes import Process

CONTROL, SERVE, APART = "control", "serve", "apart"
LITELLM, LITELLM_CACHED, PORTKEY = "LiteLLM", "LiteLLM, TLS cached", "Portkey"
RATE, CPU, SPEED, RISE = "calls/s", "CPU ms", "MB/s", "MiB rise"
T = TypeVar("T")

Measure = Callable[[], Awaitable[Sequence[float]]]
"""Measures once; a number for each of the rows."""


class Row(NamedTuple):
    """A line of the table: what came of each round, by side."""

    name: str
    unit: str
    values: Mapping[str, Sequence[float]]


async def compared(rounds: int, rows: Sequence[tuple[str, str]], measures: Mapping[str, Measure]) -> list[Row]:
    """Measures all sides in each round, so that what else the machine does meets all alike.

    `rows` are names and units; a side may leave the last ones out.
    """
    taken: dict[str, list[Sequence[float]]] = {side: [] for side in measures}
    for _ in range(rounds):
        for side, measure in measures.items():
            taken[side].append(await measure())
    by_side = {side: list(zip(*of_rounds, strict=True)) for side, of_rounds in taken.items()}
    return [
        Row(name, unit, {side: columns[at] for side, columns in by_side.items() if at < len(columns)})
        for at, (name, unit) in enumerate(rows)
    ]


def units(name: str, *units: str) -> list[tuple[str, str]]:
    """The names of rows that come of one measurement."""
    return [(name, unit) for unit in units]


def on_each(measure: Callable[[T], Awaitable[Sequence[float]]], given: Mapping[str, T]) -> dict[str, Measure]:
    """One measurement of all sides, of what is given for each."""
    return {side: partial(measure, one) for side, one in given.items()}


def cpu_seconds(processes: Iterable[Process]) -> float:
    return sum(one.cpu_seconds() for one in processes)


class Peak:
    """How much the memory of processes rises at its most, in MiB, from when this is made; the sum of all."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self._before: dict[Process, int] = {}
        for one in processes:
            one.forget_peak()
            self._before[one] = one.peak_bytes()

    @property
    def rise(self) -> float:
        return sum(one.peak_bytes() - before for one, before in self._before.items()) / (1 << 20)
