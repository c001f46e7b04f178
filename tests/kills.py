"""Kills a service again and again while it runs a batch, and counts what became of every line.

The service is a process of its own on one data directory; its endpoint runs here, so that a kill can be aimed: at a
chunk that runs, at the sealing of one, at the gap between chunks, at the start itself. Where a kill fell is
then read from what it left on the disk.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import grpc
from tests.endpoint import Reply, answering
from tests.harness import Client, chat_lines, jsonl, until
from tests.processes import Process, batchyard, configure

from batchyard.v1 import Batch, BatchStatus

LINES = 20_000
CHUNK_LINES = 200
_CONCURRENCY = 256  # more than a chunk has, so that the lines which a barrier holds leave room for those below it
_ANSWER_SECONDS = 0.005
_END_SECONDS = 120
_ORDER = [
    BatchStatus.BATCH_STATUS_VALIDATING,
    BatchStatus.BATCH_STATUS_IN_PROGRESS,
    BatchStatus.BATCH_STATUS_FINALIZING,
    BatchStatus.BATCH_STATUS_COMPLETED,
]


class Aim(StrEnum):
    """What a kill waits for, once the batch is as far as it should be."""

    CHUNK = "chunk"  # a chunk that is not sealed has results
    SEGMENT = "segment"  # a chunk's results appear in the store
    GAP = "gap"  # every chunk that has begun is sealed
    START = "start"  # a process that may not even listen yet


_MIX = (Aim.CHUNK, Aim.GAP, Aim.SEGMENT, Aim.CHUNK, Aim.GAP, Aim.CHUNK, Aim.SEGMENT, Aim.START, Aim.CHUNK, Aim.GAP)


class Kill(NamedTuple):
    """`at`: how many different lines were asked before; `delay`: seconds from the aim's event to the kill."""

    aim: Aim
    at: int
    delay: float


@dataclass
class Report:
    """What a run came to. `repeated` are lines that the endpoint was asked more than once: allowed, after a kill."""

    seed: int
    lines: int
    inside: int = 0
    between: int = 0
    lost: int = 0
    doubled: int = 0
    repeated: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.inside + self.between

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.kills} kills in {self.lines} lines ({self.inside} inside chunks, "
            f"{self.between} between), {self.lost} lost, {self.doubled} doubled, {self.repeated} asked again, "
            f"{len(self.faults)} other faults"
        )


def planned(seed: int, kills: int, lines: int) -> list[Kill]:
    """The kills of a seed, spread over the batch, its last chunks excepted: there must be something left to kill."""
    random = Random(seed)
    places = sorted(random.sample(range(1, lines - 4 * CHUNK_LINES), kills))
    aims = [_MIX[n % len(_MIX)] for n in range(kills)]
    random.shuffle(aims)
    longest = {Aim.CHUNK: 0.1, Aim.SEGMENT: 0.02, Aim.GAP: 0.0, Aim.START: 1.0}
    return [Kill(aim, at, random.uniform(0, longest[aim])) for aim, at in zip(aims, places, strict=True)]


async def torture(folder: Path, seed: int, kills: int, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Runs a batch of LINES lines to its end through seeded kills; `tell` hears of each."""
    report = Report(seed, LINES)
    upstream = _Upstream()
    async with answering(upstream.asked) as api_base:
        configure(folder, api_base=api_base, chunk_lines=CHUNK_LINES, max_concurrency=_CONCURRENCY)
        run = _Run(folder, upstream, report)
        async with living(folder) as (_, client):
            file = await client.upload(jsonl(chat_lines(LINES)))
            batch_id = (await client.create(file.id)).id
        for number, kill in enumerate(planned(seed, kills, LINES), 1):
            inside = await run.kill(kill, batch_id)
            tell(f"kill {number} at {kill.aim} {kill.at}: {'inside a chunk' if inside else 'between chunks'}")
        await run.end(batch_id)
    report.repeated = sum(calls > 1 for calls in upstream.calls.values())
    return report


@asynccontextmanager
async def living(folder: Path) -> AsyncIterator[tuple[Process, Client]]:
    """A service that listens, and a client of it; killed when the context ends, if not before."""
    with batchyard(folder) as process:
        port = await process.port()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield process, Client(channel)


def leftovers(folder: Path) -> list[str]:
    """Files of journals and of the store that no row of the registry refers to."""
    store = folder / "data" / "store"
    stored = {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()}
    known = {key for (key,) in _rows(folder, "SELECT key FROM file_parts")}
    return sorted(stored - known) + [path.name for path in (folder / "data" / "work").iterdir()]


class _Upstream:
    """An endpoint that counts how often each line is asked, and answers none from `barrier` on."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self.answered: set[int] = set()
        self.barrier = LINES

    def asked(self, line: int, reply: Reply) -> None:
        self.calls[line] += 1
        if line < self.barrier:
            self.answered.add(line)
            asyncio.get_running_loop().call_later(_ANSWER_SECONDS, reply)

    def hold(self) -> None:
        """Holds all chunks back that have no call yet."""
        self.barrier = (max(self.calls, default=-1) // CHUNK_LINES + 1) * CHUNK_LINES


class _Run:
    """The lives of the service, and what callers saw of the batch through all of them."""

    def __init__(self, folder: Path, upstream: _Upstream, report: Report) -> None:
        self._folder = folder
        self._upstream = upstream
        self._report = report
        self._seen = Batch(status=BatchStatus.BATCH_STATUS_VALIDATING)

    async def kill(self, kill: Kill, batch_id: str) -> bool:
        """Gives the service a life that ends with `kill`. Returns whether it fell inside a chunk."""
        if kill.aim is Aim.START:
            with batchyard(self._folder):
                await asyncio.sleep(kill.delay)
        else:
            async with living(self._folder) as (process, client):
                poll = asyncio.create_task(self._poll(client, batch_id))
                await self._due(kill)
                process.kill()
                await _ended(poll)
        self._upstream.barrier = LINES
        inside = self._open_records()
        self._report.inside += inside
        self._report.between += not inside
        return inside

    async def end(self, batch_id: str) -> None:
        """Lets the batch end and judges it."""
        async with living(self._folder) as (_, client):
            async with asyncio.timeout(_END_SECONDS):
                await self._poll(client, batch_id)
            output = await client.results(self._seen.output_file_id)
            errors = await client.results(self._seen.error_file_id)
        self._judge(output, errors)
        self._report.faults += [f"left behind: {name}" for name in leftovers(self._folder)]

    async def _due(self, kill: Kill) -> None:
        await _when(lambda: len(self._upstream.calls) >= kill.at)
        if kill.aim is Aim.GAP:
            self._upstream.hold()
            await _when(lambda: len(self._upstream.answered) >= self._upstream.barrier)
            await _when(lambda: not self._open_records())
        elif kill.aim is Aim.SEGMENT:
            before = self._segments()
            await _when(lambda: bool(self._segments() - before))
        else:
            await _when(self._open_records)
        await asyncio.sleep(kill.delay)

    async def _poll(self, client: Client, batch_id: str) -> None:
        """Looks at the batch until it has ended; a killed service ends it too."""
        while self._seen.status != _ORDER[-1]:
            self._see(await client.get(batch_id))
            await asyncio.sleep(0.02)

    def _see(self, batch: Batch) -> None:
        """A caller never sees the batch go back."""
        before, self._seen = self._seen, batch
        earlier, later = before.request_counts, batch.request_counts
        if _ORDER.index(before.status) > _ORDER.index(batch.status):
            self._report.faults.append(f"status went back from {before.status} to {batch.status}")
        if earlier.completed > later.completed or earlier.failed > later.failed:
            self._report.faults.append(f"counts went back from {earlier} to {later}")

    def _judge(self, output: list[dict[str, Any]], errors: list[dict[str, Any]]) -> None:
        report, counts = self._report, self._seen.request_counts
        found = Counter(line["custom_id"] for line in [*output, *errors])
        wanted = [f"request-{number}" for number in range(LINES)]
        report.lost = sum(name not in found for name in wanted)
        report.doubled = sum(times - 1 for times in found.values())
        if (counts.total, counts.completed, counts.failed) != (LINES, len(output), len(errors)):
            report.faults.append(f"counts {counts} for {len(output)} results and {len(errors)} errors")
        if [line["custom_id"] for line in output] != wanted:
            report.faults.append("the output is not the input's lines in their order")
        wrong = sum(_answer(line) != line["custom_id"].replace("request-", "question ") for line in output)
        if wrong:
            report.faults.append(f"{wrong} lines have another line's answer")

    def _open_records(self) -> bool:
        """Whether a chunk that is not sealed has results already."""
        journals = [path for path in (self._folder / "data" / "work").glob("*.journal") if _size(path)]
        if not journals:
            return False
        query = "SELECT b.id, c.n FROM chunks c JOIN batches b ON b.seq = c.batch_seq WHERE c.sealed = 0"
        unsealed = {f"{batch_id}.{n}" for batch_id, n in _rows(self._folder, query)}
        return any(path.name.rsplit(".", 2)[0] in unsealed for path in journals)

    def _segments(self) -> set[str]:
        folder = self._folder / "data" / "store" / "segments"
        return {path.name for path in folder.glob("*")}


def _rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Reads the registry, and leaves its recovery to the service: a read-only connection keeps the log as it is."""
    registry = (folder / "data" / "registry.sqlite3").as_uri()
    with closing(sqlite3.connect(f"{registry}?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def _size(path: Path) -> int:
    """0 for a journal that was removed meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _answer(line: dict[str, Any]) -> str:
    content: str = line["response"]["body"]["choices"][0]["message"]["content"]
    return content


async def _ended(poll: asyncio.Task[None]) -> None:
    """Ends a poll whose service was killed; only that may have ended it before."""
    poll.cancel()
    try:
        await poll
    except asyncio.CancelledError:
        pass
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise


async def _when(good: Callable[[], bool]) -> None:
    async def look() -> bool:
        return good()

    await until(look, bool, every=0.002)
