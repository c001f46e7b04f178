"""What Batchyard costs before it does anything: time to start, memory, and room on the disk."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from packaging.requirements import Requirement
from tests.bench.load import HOST, answered, free_port
from tests.bench.measure import APART, CONTROL, SERVE, Row, compared, cpu_seconds, units
from tests.bench.sides import configure
from tests.processes import ROOT, Process, batchyard, process

_OWN = "batchyard"


async def figures(folder: Path, rounds: int) -> list[Row]:
    """Starts both ways to run Batchyard, and a bare REST server; the first start of each doesn't count."""

    async def serve() -> tuple[float, float, float]:
        rest = free_port()
        return await _started(folder, rest, [("serve", "--port", str(rest))])

    async def apart() -> tuple[float, float, float]:
        rest, grpc = free_port(), str(free_port())
        shim = ("shim", "--port", str(rest), "--service", f"{HOST}:{grpc}")
        return await _started(folder, rest, [("service", "--grpc-port", grpc), shim])

    async def bare() -> tuple[float, float, float]:
        began = perf_counter()
        with process(folder / "rest.log", "tests.bench.controls", "rest") as running:
            await answered(await running.port("rest on"), "/")
            return perf_counter() - began, *_cost([running])

    configure(folder)
    measures = {CONTROL: bare, SERVE: serve, APART: apart}
    for measure in measures.values():
        await measure()
    names = [*units("start to ready", "s", "CPU s"), *units("idle memory of all processes", "MB")]
    size = Row("installed size", "MB", {SERVE: [installed_bytes("all") / 1e6]})
    return [*await compared(rounds, names, measures), size]


async def _started(folder: Path, port: int, commands: Iterable[tuple[str, ...]]) -> tuple[float, float, float]:
    """The seconds until readiness is told, and what it has cost."""
    with ExitStack() as stack:
        data = stack.enter_context(TemporaryDirectory(dir=folder))
        began = perf_counter()
        running = [
            stack.enter_context(batchyard(folder, name, *options, *(("--data-dir", data) if name != "shim" else ())))
            for name, *options in commands
        ]
        await answered(port, "/health/readiness")
        return perf_counter() - began, *_cost(running)


def _cost(processes: Sequence[Process]) -> tuple[float, float]:
    """CPU seconds, and the memory now."""
    return cpu_seconds(processes), sum(one.share_bytes() for one in processes) / 1e6


def installed_bytes(extra: str) -> int:
    """What Batchyard with this extra and all that it needs take on the disk, without compiled bytecode."""
    paths = [path for root in ("protos", "service", "shim") for path in (ROOT / root / _OWN).rglob("*")]
    for name in _needed(_OWN, {extra}, {}).keys() - {_OWN}:
        paths += [Path(str(file.locate())) for file in distribution(name).files or ()]
    return sum(path.stat().st_blocks * 512 for path in paths if path.suffix != ".pyc" and path.is_file())


def _needed(name: str, extras: set[str], found: dict[str, set[str]]) -> dict[str, set[str]]:
    """Adds to `found` a distribution and all that it needs with these extras."""
    if name in found and extras <= found[name]:
        return found
    found[name] = found.get(name, set()) | extras
    for line in distribution(name).requires or ():
        wanted = Requirement(line)
        if not wanted.marker or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            _needed(wanted.name.lower(), wanted.extras, found)
    return found
