"""The scan of a batch's input: how fast it is, and how long it keeps everybody else waiting."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from subprocess import PIPE
from time import perf_counter

from tests.bench import asking
from tests.bench.controls import BLOCK
from tests.bench.files import Files
from tests.bench.load import HOST
from tests.bench.measure import CONTROL, SERVE, SPEED, Row, compared, on_each, units
from tests.bench.sides import TENANT_KEY, sides
from tests.bench.transfers import content
from tests.processes import ROOT

from batchyard.service.config.settings import Limits, LocalSettings
from batchyard.service.jsonl.scanner import Scanner

_POLLING = (sys.executable, "-m", "tests.bench.polling")


async def figures(folder: Path, rounds: int, size: int) -> list[Row]:
    """Scans `size` bytes alone, and while they are uploaded to each side."""
    data = content(size)
    return [*await _speed(rounds, data), *await _stall(folder, rounds, data)]


async def _speed(rounds: int, data: bytes) -> list[Row]:
    """Of the scanner alone, against splitting the same pieces into lines."""
    cut, limits = LocalSettings(echo=True), Limits(max_batch_lines=1_000_000)

    async def scan() -> tuple[float]:
        scanner = Scanner(limits, chunk_lines=cut.chunk_lines, chunk_bytes=cut.chunk_bytes)
        began = perf_counter()
        for start in range(0, len(data), BLOCK):
            scanner.feed(data[start : start + BLOCK])
        assert not scanner.finish().errors
        return (len(data) / 1e6 / (perf_counter() - began),)

    async def split() -> tuple[float]:
        rest, lines = b"", 0
        began = perf_counter()
        for start in range(0, len(data), BLOCK):
            *whole, rest = (rest + data[start : start + BLOCK]).split(b"\n")
            lines += len(whole)
        assert lines == data.count(b"\n")
        return (len(data) / 1e6 / (perf_counter() - began),)

    return await compared(rounds, units("scan alone", SPEED), {CONTROL: split, SERVE: scan})


async def _stall(folder: Path, rounds: int, data: bytes) -> list[Row]:
    """The longest answer to a probe while the file is uploaded, against one for as long with nothing to do."""
    async with sides(folder, echo=True) as both:
        files = {side.name: Files(side.rest, data, asking.key(TENANT_KEY)) for side in both}
        seconds = [await one.upload() for one in files.values()]
        uploads: dict[str, tuple[int, Callable[[], Awaitable[object]]]]
        uploads = {side.name: (side.rest, files[side.name].upload) for side in both}
        uploads[CONTROL] = both[0].rest, lambda: asyncio.sleep(max(seconds))

        async def longest(given: tuple[int, Callable[[], Awaitable[object]]]) -> tuple[float]:
            return (await _longest(*given),)

        return await compared(rounds, units("longest health check meanwhile", "ms"), on_each(longest, uploads))


async def _longest(port: int, meanwhile: Callable[[], Awaitable[object]]) -> float:
    """How many milliseconds the longest answer to a probe takes, meanwhile."""
    asked = (HOST, str(port), "/health/liveliness")
    polling = await asyncio.create_subprocess_exec(*_POLLING, *asked, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    assert polling.stdout
    assert await polling.stdout.readline() == b"polling\n"
    await meanwhile()
    said, _ = await polling.communicate(b"")  # which ends its stdin
    assert polling.returncode == 0
    return float(said)
