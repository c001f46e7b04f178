"""Many batches of a model group at once: each must be created, run, and give its content."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from tests.groups.scene import Kind, Yard, lines_of, scene

_CALLERS = 16
_LINES = 3


@dataclass
class Report:
    """`spread` is how many batches each deployment got; `faults` are what must not be."""

    creates: int
    spread: list[int] = field(default_factory=list)
    seconds: float = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.creates} creates over {len(self.spread)} deployments in {self.seconds:.0f} s, "
            f"{len(self.faults)} failed, spread {self.spread}"
        )


async def creates(folder: Path, fakes: int, count: int) -> Report:
    """Creates that many batches over that many Azure deployments, and reads what comes of each."""
    report, began = Report(count), perf_counter()
    kinds: list[Kind] = ["azure"] * fakes
    numbers = iter(range(count))
    async with scene(folder, *kinds) as yard:
        await asyncio.gather(*(_caller(yard, numbers, report) for _ in range(_CALLERS)))
        await yard.cleaned()
        report.spread = [len(fake.batches) for fake in yard.fakes]
        if not yard.once():
            report.faults.append("a line was executed twice, or at work in two batches at once")
    report.seconds = perf_counter() - began
    return report


async def _caller(yard: Yard, numbers: Iterable[int], report: Report) -> None:
    for number in numbers:
        lines = lines_of(_LINES, f"{number}-")
        try:
            batch = await yard.run(lines)
            await yard.accounted(batch, lines)
            assert batch["status"] == "completed", batch
        except AssertionError as wrong:
            report.faults.append(f"batch {number}: {wrong}")
