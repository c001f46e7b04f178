"""One batch of very many lines over several deployments: what comes back, and how much memory the service takes."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from tests.groups.configuring import configure_group
from tests.groups.scene import GROUP, MODEL
from tests.harness import ENDED, Client, until
from tests.kills import living
from tests.upstream.azure import fake_azure
from tests.upstream.quirks import Quirks

from batchyard.v1 import (
    BatchStatus,
    DownloadFileRequest,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
)

MIB = 1 << 20
_PIECE_LINES = 200
_FIRST_LINES = 1000  # of a batch that loads what every batch needs
_PATIENCE = 1800.0
_MOST_FAULTS = 10
_TAIL = '"}]}}'
_QUIRKS = Quirks(abridge=True)  # each line is answered with a hash of it

T = TypeVar("T")


@dataclass
class Report:
    """What a run came to; `growth` is how much more memory the service had at its most."""

    lines: int
    bytes: int = 0
    shards: list[int] = field(default_factory=list)
    growth: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return (
            f"{self.lines} lines, {self.bytes / 1e6:.0f} MB, shards at each deployment {self.shards}: {times}, "
            f"service +{self.growth / MIB:.1f} MiB, {len(self.faults)} faults"
        )


async def large(
    folder: Path, lines: int, line_bytes: int, deployments: int, tell: Callable[[str], None] = lambda _: None
) -> Report:
    """Runs a batch of that many lines of that many bytes; each deployment takes its share of the lines, no more."""
    report = Report(lines)
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(fake_azure(_QUIRKS, key=f"key-{n}")) for n in range(deployments)]
        configure_group(folder, fakes, {"max_batch_lines": lines // deployments})
        process, client = await stack.enter_async_context(living(folder))
        await _run(client, _Input(_FIRST_LINES, line_bytes, "first"), Report(_FIRST_LINES), tell)
        before = [len(fake.batches) for fake in fakes]
        process.forget_peak()
        peak = process.peak_bytes()
        await _run(client, _Input(lines, line_bytes, "line"), report, tell)
        report.growth = process.peak_bytes() - peak
        report.shards = [len(fake.batches) - earlier for fake, earlier in zip(fakes, before, strict=True)]
        executed = sum(fake.executed.total() for fake in fakes) - _FIRST_LINES
        if executed != lines or max(count for fake in fakes for count in fake.executed.values()) > 1:
            report.faults.append(f"{executed} lines were executed")
    return report


class _Input:
    """Lines of one length, made when they are wanted."""

    def __init__(self, lines: int, line_bytes: int, name: str) -> None:
        self.lines = lines
        self._name = name
        self._bytes = line_bytes
        self._filler = "x" * line_bytes

    def line(self, number: int, model: str) -> bytes:
        """A line without its newline, as it is for that model."""
        head = f'{{"custom_id":"{self._name}-{number}","method":"POST","url":"/v1/chat/completions","body":{{"model":"'
        prompt = f'","messages":[{{"role":"user","content":"{number} '
        filler = self._filler[: max(0, self._bytes - len(head) - len(GROUP) - len(prompt) - len(_TAIL) - 1)]
        return f"{head}{model}{prompt}{filler}{_TAIL}".encode()

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, self.lines, _PIECE_LINES):
            numbers = range(start, min(start + _PIECE_LINES, self.lines))
            yield b"".join(self.line(number, GROUP) + b"\n" for number in numbers)

    def answer(self, number: int) -> str:
        """What a fake answers to a line: a hash of what it got."""
        return sha256(self.line(number, MODEL)).hexdigest()[:16]


async def _run(client: Client, given: _Input, report: Report, tell: Callable[[str], None]) -> None:
    """Uploads, creates, waits, downloads, and judges what came."""

    async def timed(name: str, step: Awaitable[T]) -> T:
        began = perf_counter()
        done = await step
        report.seconds[name] = perf_counter() - began
        tell(f"{given.lines} lines: {name} in {report.seconds[name]:.1f} s")
        return done

    file_id = await timed("upload", _upload(client, given, report))
    created = await timed("create", client.create(file_id))
    batch = await timed("run", until(lambda: client.get(created.id), lambda one: one.status in ENDED, _PATIENCE, 0.5))
    counts = batch.request_counts
    if batch.status != BatchStatus.BATCH_STATUS_COMPLETED or counts.completed != given.lines:
        report.faults.append(f"{BatchStatus.Name(batch.status)}, {counts}")
    if batch.output_file_id:
        await timed("download", _read(client, batch.output_file_id, given, report))


async def _upload(client: Client, given: _Input, report: Report) -> str:
    async def messages() -> AsyncIterator[UploadFileRequest]:
        yield UploadFileRequest(metadata=UploadFileMetadata(purpose="batch", filename="input.jsonl"))
        for piece in given.pieces():
            report.bytes += len(piece)
            yield UploadFileRequest(data=piece)
        yield UploadFileRequest(finish=UploadFileFinish(size=report.bytes))

    return (await client.stub.UploadFile(messages(), metadata=client.metadata)).file.id


async def _read(client: Client, file_id: str, given: _Input, report: Report) -> None:
    """Every line must be there once, in its place, with its own answer."""
    held, number = b"", 0
    request = DownloadFileRequest(file_id=file_id)
    async for message in client.stub.DownloadFile(request, metadata=client.metadata):
        *whole, held = (held + message.data).split(b"\n")
        for raw in whole:
            if _answer(raw) != given.answer(number) and len(report.faults) < _MOST_FAULTS:
                report.faults.append(f"line {number} is {raw[:200]!r}")
            number += 1
    if (number, held) != (given.lines, b""):
        report.faults.append(f"{number} lines came, and {len(held)} bytes after them")


def _answer(raw: bytes) -> str:
    content: str = json.loads(raw)["response"]["body"]["choices"][0]["message"]["content"]
    return content
