"""Kills a service again and again while batches of a model group run, and counts what became of every line.

The fakes that play the deployments run here and live on, so that a kill can be aimed at a request to one of them: while
its answer is held back, before or after it has acted, or a moment later; or at the start of the service itself.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import NamedTuple

import grpc
from tests.groups.configuring import configure_group
from tests.groups.scene import lines_of
from tests.harness import Client, jsonl
from tests.kills import living
from tests.processes import batchyard
from tests.upstream.azure import FakeAzure, fake_azure
from tests.upstream.census import Census
from tests.upstream.exchange import Seen
from tests.upstream.faults import Held
from tests.upstream.quirks import Quirks

from batchyard.v1 import Batch, BatchStatus

BATCHES = 100
LINES = 6  # of a batch, at members that take four
_FAKES = 3
_CALLERS = 4
_FIRST, _LAST = 5, 700  # requests that kills are aimed at, of about 800
_PATIENCE = 180.0


class Aim(StrEnum):
    """Where a kill falls."""

    BEFORE = "before"  # a deployment has got a request, and not acted
    AFTER = "after"  # it has acted, and its answer is on its way
    LATER = "later"  # a moment after a request
    START = "start"  # a process that may not even listen yet


_MIX = (Aim.BEFORE, Aim.AFTER, Aim.LATER, Aim.AFTER, Aim.LATER, Aim.BEFORE, Aim.AFTER, Aim.LATER, Aim.AFTER, Aim.START)


class Kill(NamedTuple):
    """`at` is the number of the request; `delay` are seconds from there, or from the start, to the kill.

    While nobody looks, the deployments' batches go on by `steps`.
    """

    aim: Aim
    at: int
    delay: float
    steps: int


@dataclass
class Report:
    """What a run came to. `stranded` are inputs whose upload was acknowledged to nobody: these expire."""

    seed: int
    kills: int = 0
    lost: int = 0
    doubled: int = 0
    twice: int = 0
    shards: int = 0
    stranded: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.twice or self.faults)

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.kills} kills in {BATCHES} batches of {self.shards} shards over {_FAKES} fakes, "
            f"{self.lost} lines lost, {self.doubled} doubled, {self.twice} run twice, {self.stranded} inputs left, "
            f"{len(self.faults)} other faults"
        )


def planned(seed: int, kills: int) -> list[Kill]:
    """The kills of a seed, in their order."""
    random = Random(seed)
    places = sorted(random.sample(range(_FIRST, _LAST), kills))
    aims = [_MIX[n % len(_MIX)] for n in range(kills)]
    random.shuffle(aims)
    longest = {Aim.BEFORE: 0.0, Aim.AFTER: 0.0, Aim.LATER: 0.05, Aim.START: 1.5}
    return [
        Kill(aim, at, random.uniform(0, longest[aim]), random.choice((0, 1, 4)))
        for aim, at in zip(aims, places, strict=True)
    ]


async def kill_groups(folder: Path, seed: int, kills: int, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Runs BATCHES batches to their end through seeded kills; `tell` hears of each."""
    report = Report(seed)
    async with AsyncExitStack() as stack:
        quirks = Quirks(pending_reads=1)
        fakes = [await stack.enter_async_context(fake_azure(quirks, key=f"key-{n}")) for n in range(_FAKES)]
        configure_group(folder, fakes, {"max_batch_lines": 4})
        run = _Run(folder, fakes, report)
        for number, kill in enumerate(planned(seed, kills), 1):
            await run.through(kill)
            tell(f"kill {number}: {kill.aim} request {kill.at}, {run.told()}")
        await run.to_the_end()
    return report


class _Target:
    """Counts the requests to all fakes that do something or fetch it, and notices when it is one's turn."""

    def __init__(self) -> None:
        self.count = 0
        self.at = 0
        self.reached = asyncio.Event()

    def aim(self, at: int) -> None:
        """At that request, or the next one if it is over."""
        self.at = max(at, self.count + 1)
        self.reached.clear()

    def __call__(self, seen: Seen) -> bool:
        if seen.method == "GET" and not seen.path.endswith("/content"):
            return False
        self.count += 1
        if self.count != self.at:
            return False
        self.reached.set()
        return True


class _Run:
    """The lives of the service, and what its caller was told through all of them."""

    def __init__(self, folder: Path, fakes: Sequence[FakeAzure], report: Report) -> None:
        self._folder = folder
        self._fakes = fakes
        self._report = report
        self._census = Census(*fakes)
        self._target = _Target()
        self._files: dict[int, str] = {}
        self._ids: dict[int, str] = {}

    def told(self) -> str:
        """How far it is."""
        done = sum(batch["status"] == "completed" for fake in self._fakes for batch in fake.batches.values())
        return f"{len(self._ids)} batches created, {done} shards done"

    async def through(self, kill: Kill) -> None:
        """A life that ends as `kill` says; the next one finds what it left."""
        gate = asyncio.Event()
        self._target.aim(kill.at)
        if kill.aim is not Aim.START:
            self._hold(gate, kill)
        if kill.aim is Aim.START:
            await self._killed_at_its_start(kill.delay)
        else:
            async with living(self._folder) as (process, client):
                creating = asyncio.create_task(self._create(client))
                async with asyncio.timeout(_PATIENCE):
                    await self._target.reached.wait()
                await asyncio.sleep(kill.delay)
                process.kill()
                gate.set()
                await _over(creating)
        for fake in self._fakes:
            fake.faults.clear()
            for batch_id in fake.batches:
                for _ in range(kill.steps):
                    fake.step(batch_id)
        self._report.kills += 1

    def _hold(self, gate: asyncio.Event, kill: Kill) -> None:
        """Lets the target wait at the gate; one that is killed later goes on."""
        if kill.aim is Aim.LATER:
            gate.set()
        for fake in self._fakes:
            fake.fault(Held(gate, acts=kill.aim is not Aim.BEFORE), where=self._target)

    async def _killed_at_its_start(self, delay: float) -> None:
        with batchyard(self._folder):
            await asyncio.sleep(delay)

    async def to_the_end(self) -> None:
        """The last life, in which everything ends."""
        async with living(self._folder) as (_, client):
            await self._create(client)
            async with asyncio.timeout(_PATIENCE):
                batches = [await client.ended(self._ids[number]) for number in range(BATCHES)]
            for number, batch in enumerate(batches):
                await self._judge(client, number, batch)
        report, executed = self._report, sum((fake.executed for fake in self._fakes), Counter[str]())
        report.twice = sum(count > 1 for count in executed.values())
        report.shards = sum(len(fake.batches) for fake in self._fakes)
        report.stranded = sum(fake.inputs() for fake in self._fakes)
        if self._census.most > 1:
            report.faults.append(f"a line was in {self._census.most} live batches at once")

    async def _create(self, client: Client) -> None:
        """Uploads and creates what isn't yet, as a caller does who repeats what was not answered."""
        numbers = iter([number for number in range(BATCHES) if number not in self._ids])

        async def caller() -> None:
            for number in numbers:
                if number not in self._files:
                    self._files[number] = (await client.upload(jsonl(lines_of(LINES, f"{number}-")))).id
                created = await client.create(self._files[number], idempotency_key=f"batch-{number}")
                self._ids[number] = created.id

        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(caller())

    async def _judge(self, client: Client, number: int, batch: Batch) -> None:
        report, counts = self._report, batch.request_counts
        results = [*await client.results(batch.output_file_id), *await client.results(batch.error_file_id)]
        found = Counter(line["custom_id"] for line in results)
        wanted = [line["custom_id"] for line in lines_of(LINES, f"{number}-")]
        report.lost += sum(name not in found for name in wanted)
        report.doubled += sum(times - 1 for times in found.values())
        if batch.status != BatchStatus.BATCH_STATUS_COMPLETED or (counts.completed, counts.failed) != (LINES, 0):
            report.faults.append(f"batch {number}: {BatchStatus.Name(batch.status)}, {counts}")


async def _over(creating: asyncio.Task[None]) -> None:
    """Ends a caller whose service was killed; only that may have ended it before."""
    creating.cancel()
    await asyncio.wait([creating])
    error = None if creating.cancelled() else creating.exception()
    if isinstance(error, BaseExceptionGroup) and error.split(_is_gone)[1] is None:
        return
    if error:
        raise error


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
