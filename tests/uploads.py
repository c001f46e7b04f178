"""Large uploads over REST, one or many at once, and the memory that they take in each process."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import httpx
from tests.harness import KEY, plain_client
from tests.processes import Process, batchyard, configure, configure_at, process

MIB = 1 << 20
LINE_BYTES = 5000
_PIECE_LINES = 50
_FILLER = "x" * (LINE_BYTES - 150)
_FORM = {"content-type": "multipart/form-data; boundary=uploads"}
_HEAD = (
    b'--uploads\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--uploads\r\ncontent-disposition: form-data; name="file"; filename="input.jsonl"\r\n\r\n'
)


@dataclass
class Growth:
    """What uploads came to: `sizes` of the files in bytes, and how much more memory each process had at its most."""

    seconds: float
    sizes: list[int]
    peaks: dict[str, int]

    def __str__(self) -> str:
        peaks = ", ".join(f"{name} +{peak / MIB:.1f} MiB" for name, peak in self.peaks.items())
        return f"{len(self.sizes)} uploads at once, {sum(self.sizes) / 1e6:.0f} MB in {self.seconds:.1f} s: {peaks}"


class Pair(NamedTuple):
    """A shim, the service behind it, and a client of the shim."""

    rest: httpx.AsyncClient
    shim: Process
    service: Process


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    """A shim and a service as processes on free ports, with their data in `folder`."""
    configure(folder, echo=True)
    async with _configured(folder) as running:
        yield running


@asynccontextmanager
async def pair_at(folder: Path, kind: str, content_bytes: int) -> AsyncIterator[Pair]:
    """The same with nothing but a deployment, whose files all have so many bytes of content."""
    async with _deployed(folder, kind, content_bytes), _configured(folder) as running:
        yield running


@asynccontextmanager
async def whole(folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Process]]:
    """A client, and `batchyard serve` as a process on free ports, with its data in `folder`."""
    configure(folder, echo=True)
    async with _serving(folder) as serving:
        yield serving


@asynccontextmanager
async def whole_at(folder: Path, kind: str, content_bytes: int) -> AsyncIterator[tuple[httpx.AsyncClient, Process]]:
    """The same with nothing but a deployment, whose files all have so many bytes of content."""
    async with _deployed(folder, kind, content_bytes), _serving(folder) as serving:
        yield serving


@asynccontextmanager
async def _deployed(folder: Path, kind: str, content_bytes: int) -> AsyncIterator[None]:
    made = ("--kind", kind, "--content-bytes", str(content_bytes))
    with process(folder / "upstream.log", "tests.upstream", *made) as upstream:
        base = f"http://127.0.0.1:{await upstream.port('upstream on')}"
        key = {"openai": "sk-upstream", "azure": "azure-upstream-key"}[kind]
        base += "/v1" if kind == "openai" else ""
        configure_at(folder, kind, base, key)
        yield


@asynccontextmanager
async def _configured(folder: Path) -> AsyncIterator[Pair]:
    with batchyard(folder, "service") as service:
        target = f"127.0.0.1:{await service.port()}"
        with batchyard(folder, "shim", "--service", target) as shim:
            async with _client(await shim.port("REST on")) as rest:
                yield Pair(rest, shim, service)


@asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Process]]:
    with batchyard(folder, "serve") as serving:
        async with _client(await serving.port("REST on")) as rest:
            yield rest, serving


def _client(port: int) -> httpx.AsyncClient:
    return plain_client(base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {KEY}"}, timeout=600)


async def at_once(running: Pair, uploads: int, lines: int) -> Growth:
    """Uploads that many files of that many lines at once; fails where one fails or loses bytes."""
    both, began = (running.shim, running.service), perf_counter()
    for one in both:
        one.forget_peak()
    before = {one.log.stem: one.peak_bytes() for one in both}
    files = await asyncio.gather(*(upload(running.rest, lines) for _ in range(uploads)))
    peaks = {one.log.stem: one.peak_bytes() - before[one.log.stem] for one in both}
    return Growth(perf_counter() - began, [file["bytes"] for file in files], peaks)


async def upload(rest: httpx.AsyncClient, lines: int) -> dict[str, Any]:
    """Uploads a batch input of that many lines of about LINE_BYTES each; fails where the answer is not of it."""
    sent = 0

    async def form() -> AsyncIterator[bytes]:
        nonlocal sent
        yield _HEAD
        for piece in _pieces(lines):
            sent += len(piece)
            yield piece
        yield b"\r\n--uploads--\r\n"

    answer = await rest.post("/v1/files", content=form(), headers=_FORM)
    assert answer.status_code == 200, answer.text
    file: dict[str, Any] = answer.json()
    assert file["bytes"] == sent
    return file


def _pieces(lines: int) -> Iterator[bytes]:
    for start in range(0, lines, _PIECE_LINES):
        yield b"".join(_line(number) for number in range(start, min(start + _PIECE_LINES, lines)))


def _line(number: int) -> bytes:
    message = {"role": "user", "content": f"{number} {_FILLER}"}
    body = {"model": "test-model", "messages": [message]}
    line = {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode() + b"\n"
