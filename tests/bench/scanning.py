"""The scan of a batch's input: how fast it is, and how long it keeps everybody else waiting."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from subprocess import PIPE
from time import perf_counter

import aiohttp
from tests.bench.controls import BLOCK
from tests.bench.measure import Figure, compared
from tests.bench.transfers import RestFiles, content
from tests.processes import ROOT, batchyard, configure

from batchyard.service.jsonl import Scanner
from batchyard.service.settings import Limits, LocalSettings

_MANY_LINES = {"max_batch_lines": 1_000_000}
_POLLING = (sys.executable, "-m", "tests.bench.polling")


async def figures(folder: Path, rounds: int, size: int) -> list[Figure]:
    """Scans `size` bytes alone, and while they are uploaded to one process of both servers."""
    data = content(size)
    return [await _speed(rounds, data), await _stall(folder, rounds, data)]


async def _speed(rounds: int, data: bytes) -> Figure:
    """Of the scanner alone, against splitting the same pieces into lines."""
    cut = LocalSettings(echo=True)

    async def scan() -> float:
        scanner = Scanner(Limits(**_MANY_LINES), chunk_lines=cut.chunk_lines, chunk_bytes=cut.chunk_bytes)
        began = perf_counter()
        for start in range(0, len(data), BLOCK):
            scanner.feed(data[start : start + BLOCK])
        assert not scanner.finish().errors
        return len(data) / 1e6 / (perf_counter() - began)

    async def split() -> float:
        rest, lines = b"", 0
        began = perf_counter()
        for start in range(0, len(data), BLOCK):
            *whole, rest = (rest + data[start : start + BLOCK]).split(b"\n")
            lines += len(whole)
        assert lines == data.count(b"\n")
        return len(data) / 1e6 / (perf_counter() - began)

    return await compared("scanner", "MB/s", rounds, scan, split)


async def _stall(folder: Path, rounds: int, data: bytes) -> Figure:
    """The longest answer to a probe while the file is uploaded, against one for as long with nothing to do."""
    configure(folder, _MANY_LINES, echo=True)
    with batchyard(folder, "serve") as server:
        port = await server.port("REST on")
        async with aiohttp.ClientSession() as session:
            files = RestFiles(session, f"http://127.0.0.1:{port}/v1/files", data)
            began = perf_counter()
            await files.upload()
            seconds = perf_counter() - began
            return await compared(
                "longest answer while scanning",
                "ms",
                rounds,
                lambda: _longest(port, files.upload),
                lambda: _longest(port, lambda: asyncio.sleep(seconds)),
            )


async def _longest(port: int, meanwhile: Callable[[], Awaitable[None]]) -> float:
    """How many milliseconds the longest answer to a probe takes, meanwhile."""
    asked = ("127.0.0.1", str(port), "/health/liveliness")
    polling = await asyncio.create_subprocess_exec(*_POLLING, *asked, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    assert polling.stdout
    assert await polling.stdout.readline() == b"polling\n"
    await meanwhile()
    said, _ = await polling.communicate(b"")  # which ends its stdin
    assert polling.returncode == 0
    return float(said)
