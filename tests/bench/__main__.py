"""Measures Batchyard against controls in the same run, or with `--peers` against others of its kind.

docs/benchmarks.md says what each line means.
"""

import argparse
import asyncio
import os
import platform
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

import uvloop
from tests.bench import calls, lines, peers, scanning, starting, transfers, upstream
from tests.bench.measure import Row
from tests.bench.table import own_tables, peers_tables

_LIBRARIES = ("aiohttp", "grpcio", "httpx", "sqlalchemy", "starlette", "uvloop")


class Scale(NamedTuple):
    """How much is measured; `size` is in bytes."""

    rounds: int
    seconds: float
    size: int
    lines: int


FULL = Scale(rounds=5, seconds=1.0, size=200_000_000, lines=5000)
QUICK = Scale(rounds=3, seconds=0.4, size=20_000_000, lines=1000)
HEAVY_ROUNDS = 3  # of what takes seconds each

Group = Callable[[Path, Scale], Awaitable[list[Row]]]

OWN: dict[str, Group] = {
    "calls": lambda folder, scale: calls.figures(folder, scale.rounds, scale.seconds),
    "upstream": lambda folder, scale: upstream.figures(folder, scale.rounds, scale.seconds),
    "transfers": lambda folder, scale: transfers.figures(folder, HEAVY_ROUNDS, scale.size),
    "scanning": lambda folder, scale: scanning.figures(folder, HEAVY_ROUNDS, scale.size),
    "lines": lambda folder, scale: lines.figures(folder, HEAVY_ROUNDS, scale.lines),
    "starting": lambda folder, scale: starting.figures(folder, HEAVY_ROUNDS),
}
PEERS: dict[str, Group] = {
    "peers": lambda folder, scale: peers.figures(folder, HEAVY_ROUNDS, scale.seconds, scale.size),
}


async def run(groups: dict[str, Group], scale: Scale) -> tuple[list[Row], bool]:
    """All groups, one after the other, each with servers of its own; and whether all went well."""
    rows, well = [], True
    for name, group in groups.items():
        began = perf_counter()
        print(f"measuring {name} ...", end=" ", file=sys.stderr, flush=True)
        with TemporaryDirectory(prefix=f"bench-{name}-") as folder:
            try:
                rows += await group(Path(folder), scale)
            except Exception:
                well = False
                traceback.print_exc()
        print(f"{perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return rows, well


def _groups(text: str, known: Iterable[str]) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(known):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller run, for a first look")
    parser.add_argument("--peers", action="store_true", help="against LiteLLM and Portkey")
    parser.add_argument(
        "--only", type=lambda text: _groups(text, OWN), metavar="GROUP,...", help=f"some of {', '.join(OWN)}"
    )
    given = parser.parse_args()
    if given.peers and given.only:
        parser.error("--only is about the groups without peers")
    groups = PEERS if given.peers else {name: OWN[name] for name in given.only or OWN}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows, well = runner.run(run(groups, QUICK if given.quick else FULL))
    if rows:
        print(f"\n{_machine()}\n\n{(peers_tables if given.peers else own_tables)(rows)}")
    raise SystemExit(0 if well else 1)


def _machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    busy = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({_processor()}), load {busy:.1f}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {libraries}"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
