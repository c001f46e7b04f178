"""Kills a service while it runs a batch of 20,000 lines; exits 1 where a line is lost or doubled, or worse."""

import argparse
import asyncio
import sys
from pathlib import Path
from random import randrange
from tempfile import TemporaryDirectory

from tests.kills import Report, torture


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=randrange(1 << 31), help="repeats a run's kills; else a new one")
    parser.add_argument("--kills", type=int, default=50)
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.kills} kills", flush=True)
    with TemporaryDirectory(prefix="torture-") as folder:
        report = asyncio.run(torture(Path(folder), given.seed, given.kills, lambda text: print(text, flush=True)))
    for fault in report.faults:
        print(f"fault: {fault}")
    good = _good(report)
    print(f"{'passed' if good else 'FAILED'}: {report}")
    return 0 if good else 1


def _good(report: Report) -> bool:
    nothing_wrong = not (report.lost or report.doubled or report.faults)
    return nothing_wrong and report.inside > 0 and (report.between > 0 or report.kills == 1)


if __name__ == "__main__":
    sys.exit(main())
