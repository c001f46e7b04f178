"""The long runs: kills of a service in the midst of a batch, a soak, very many reads, chaos at a provider, large
uploads, fuzzing; and of model groups kills, a large batch, and very many batches.

One kind a run, kills where none is named. Exits 1 where something is lost, doubled, left over, or beyond its bound.
"""

import argparse
import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from random import randrange
from tempfile import TemporaryDirectory

from tests.chaos import chaos
from tests.groups.creates import creates
from tests.groups.kills import kill_groups
from tests.groups.large import large
from tests.growth import FEW, growth
from tests.kills import Report, torture
from tests.processes import ROOT
from tests.providers.scene import FAKES as PROVIDERS
from tests.reads import reads
from tests.soak import soak
from tests.storm import storm
from tests.uploads import LINE_BYTES, MIB, at_once, pair, upload

_UPLOAD_BYTES = 200_000_000
_MOST_UPLOAD_GROWTH = 80 * MIB
_LARGE_LINES, _LARGE_LINE_BYTES, _LARGE_DEPLOYMENTS = 500_000, 1200, 10
_MOST_LARGE_GROWTH = 64 * MIB
_DEPLOYMENTS = (2, 3, 10)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=randrange(1 << 31), help="repeats a run; else a new one")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--kills", type=int, default=50, help="kills while a batch of 20,000 lines runs")
    kinds.add_argument("--soak", type=int, metavar="CALLS", help="mixed calls, then a look at what is left over")
    kinds.add_argument("--reads", type=int, metavar="CALLS", help="reads, then a look at the memory that they took")
    kinds.add_argument("--chaos", type=int, metavar="CALLS", help="mixed calls to providers that fail one in five")
    kinds.add_argument("--uploads", type=int, metavar="COUNT", help="uploads of 200 MB at once")
    kinds.add_argument("--groups", type=int, metavar="KILLS", help="kills while 100 batches of a model group run")
    kinds.add_argument("--large", action="store_true", help="a batch of 500,000 lines, 600 MB, over ten deployments")
    kinds.add_argument("--creates", type=int, metavar="COUNT", help="batches over two, three and ten deployments")
    kinds.add_argument("--growth", type=int, metavar="ROWS", help="what calls cost beside so many batches")
    kinds.add_argument("--fuzz", action="store_true", help="the fuzz tests with many more examples")
    kinds.add_argument("--storm", type=float, metavar="MINUTES", help="inputs of any kind at both doors, watched")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    if given.fuzz:
        return _fuzz(given.seed)
    with TemporaryDirectory(prefix="torture-") as folder:
        if given.growth:
            return asyncio.run(_growth(Path(folder), given.growth))
        if given.storm:
            good = asyncio.run(_storm(Path(folder), given.seed, given.storm))
        elif given.soak:
            good = asyncio.run(_soak(Path(folder), given.seed, given.soak))
        elif given.reads:
            good = asyncio.run(_reads(Path(folder), given.reads))
        elif given.chaos:
            good = asyncio.run(_chaos(Path(folder), given.seed, given.chaos))
        elif given.uploads:
            good = asyncio.run(_uploads(Path(folder), given.uploads))
        elif given.groups:
            good = asyncio.run(_groups(Path(folder), given.seed, given.groups))
        elif given.large:
            good = asyncio.run(_large(Path(folder)))
        elif given.creates:
            good = asyncio.run(_creates(Path(folder), given.creates))
        else:
            good = asyncio.run(_kills(Path(folder), given.seed, given.kills))
    return 0 if good else 1


async def _kills(folder: Path, seed: int, kills: int) -> bool:
    report = await torture(folder, seed, kills, _tell)
    return _told(report, report.faults, _good(report))


async def _soak(folder: Path, seed: int, calls: int) -> bool:
    report = await soak(folder, seed, calls, _tell)
    return _told(report, report.faults, not report.faults)


async def _storm(folder: Path, seed: int, minutes: float) -> bool:
    report = await storm(folder, seed, minutes * 60, _tell)
    wrong = [*report.faults, *report.stalls]
    return _told(report, wrong, not wrong)


async def _reads(folder: Path, calls: int) -> bool:
    report = await reads(folder, calls, _tell)
    return _told(report, [], report.good)


async def _chaos(folder: Path, seed: int, calls: int) -> bool:
    logging.getLogger().addHandler(logging.NullHandler())  # of what goes wrong on purpose
    reports = [await chaos(folder / provider, seed, calls, provider) for provider in PROVIDERS]
    found = [_told(report, report.faults, not report.faults) for report in reports]
    return all(found)


async def _uploads(folder: Path, uploads: int) -> bool:
    async with pair(folder) as running:
        await upload(running.rest, 1000)
        growth = await at_once(running, uploads, _UPLOAD_BYTES // LINE_BYTES)
    return _told(growth, [], max(growth.peaks.values()) <= _MOST_UPLOAD_GROWTH)


async def _groups(folder: Path, seed: int, kills: int) -> bool:
    report = await kill_groups(folder, seed, kills, _tell)
    return _told(report, report.faults, report.good)


async def _large(folder: Path) -> bool:
    report = await large(folder, _LARGE_LINES, _LARGE_LINE_BYTES, _LARGE_DEPLOYMENTS, _tell)
    return _told(report, report.faults, not report.faults and report.growth <= _MOST_LARGE_GROWTH)


async def _creates(folder: Path, count: int) -> bool:
    reports = [await creates(folder / str(deployments), deployments, count) for deployments in _DEPLOYMENTS]
    found = [_told(report, report.faults, not report.faults) for report in reports]
    return all(found)


async def _growth(folder: Path, rows: int) -> int:
    """People judge what it shows."""
    costs, rise = await growth(folder, rows)
    print(f"\n{'microseconds of CPU, batches:':34}{FEW:>9}{rows:>9}   ratio")
    print("\n".join(map(str, costs)))
    print(f"\npeak memory: +{rise:.1f} MiB")
    return 0


def _fuzz(seed: int) -> int:
    options = ["--hypothesis-profile=torture", f"--hypothesis-seed={seed}", "-p", "no:cacheprovider"]
    # Not here: pytest must be the first to import what its plugins are made of, and chaos has done so above.
    folders = [str(ROOT / "tests" / name) for name in ("fuzz", "isolation")]
    command = [sys.executable, "-m", "pytest", *options, *folders]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _told(figures: object, faults: list[str], good: bool) -> bool:
    for fault in faults:
        print(f"fault: {fault}")
    print(f"{'passed' if good else 'FAILED'}: {figures}")
    return good


def _tell(text: str) -> None:
    print(text, flush=True)


def _good(report: Report) -> bool:
    nothing_wrong = not (report.lost or report.doubled or report.faults)
    return nothing_wrong and report.inside > 0 and (report.between > 0 or report.kills == 1)


if __name__ == "__main__":
    sys.exit(main())
