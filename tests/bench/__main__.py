"""Measures Batchyard against controls in the same run. docs/benchmarks.md says what each line means."""

import argparse
import asyncio
import os
import platform
from collections.abc import Awaitable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple, TypeVar

import uvloop
from tests.bench import calls, lines, scanning, through, transfers
from tests.bench.measure import HEADING, Figure, Growth

T = TypeVar("T")


class Scale(NamedTuple):
    """How much is measured; `size` is in bytes."""

    rounds: int
    calls: int
    size: int
    lines: int


FULL = Scale(rounds=5, calls=1000, size=200_000_000, lines=5000)
QUICK = Scale(rounds=3, calls=200, size=20_000_000, lines=1000)


async def run(scale: Scale, folder: Path) -> tuple[list[Figure], list[Growth]]:
    """All groups, one after the other, each with servers of its own."""
    for name in ("calls", "transfers", "through", "scanning", "lines"):
        (folder / name).mkdir()
    figures = await _told("calls", calls.figures(folder / "calls", scale.rounds, scale.calls))
    moved, growths = await _told("transfers", transfers.figures(folder / "transfers", 3, scale.size))
    moved += await _told("through", through.figures(folder / "through", 3, scale.size))
    moved += await _told("scanning", scanning.figures(folder / "scanning", 3, scale.size))
    return [*figures, *moved, *await _told("lines", lines.figures(folder / "lines", 3, scale.lines))], growths


async def _told(name: str, group: Awaitable[T]) -> T:
    start = perf_counter()
    print(f"measuring {name} ...", end=" ", flush=True)
    result = await group
    print(f"{perf_counter() - start:.0f} s", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller run, for a first look")
    scale = QUICK if parser.parse_args().quick else FULL
    with TemporaryDirectory(prefix="bench-") as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures, growths = runner.run(run(scale, Path(folder)))
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores, files of {scale.size / 1e6:.0f} MB\n")
    print("\n".join([HEADING, *map(str, figures), "", *map(str, growths)]))


if __name__ == "__main__":
    main()
