"""Many mixed calls to a front door whose deployment fails one request in five, by callers some of whom leave.

Then everything is well again, and what is at the deployment is held against what the front door knows.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter, time
from typing import Any

import httpx
from tests.deployments import DOUBT_SECONDS
from tests.harness import plain_client, until
from tests.providers.scene import CONTENT, FAKES, INPUT, UPLOAD, Provider, Scene, before
from tests.rest.conftest import BEARER, batch_request
from tests.upstream.exchange import Seen
from tests.upstream.faults import Answer, Broken, Due, Fault, Hang, Reset, Stalled
from tests.upstream.quirks import Quirks
from tests.upstream.store import Upstream

from batchyard.service.providers.remote.columns import MARK

CALLERS = 8
SHARE = 0.2  # of requests at the deployment that go wrong
LEAVING = 0.1  # of calls whose caller does not wait
CALL_SECONDS, IDLE_SECONDS = 1.0, 1.0
MOST_SECONDS = 10.0
"""What no call may take: a call's own bound, a look after it, and what a busy machine needs."""
_PATIENCE = 60.0
_FULL = {f"pair-{number}": "value" for number in range(15)}
_ANYWHERE: list[Fault] = [
    *(Answer(status, acts=acts) for status in (500, 502, 504) for acts in (True, False)),
    Answer(503),
    Answer(429, headers={"retry-after": "0"}),
    Answer(400),
    Reset(acts=True),
    Reset(),
    Hang(acts=True),
    Hang(),
]
_OF_OBJECTS: list[Fault] = [Answer(200, b"<html>"), Answer(200, b"<html>", acts=True)]
_OF_CONTENT: list[Fault] = [Broken(100), Broken(100, chunked=True, clean=True), Stalled(100)]
_OF_UPLOADS: list[Fault] = [Reset(after=300)]


@dataclass
class Report:
    """What a run came to. `ends` counts calls by name and status; `faults` are what must not be."""

    seed: int
    provider: Provider
    ends: Counter[str] = field(default_factory=Counter)
    longest: float = 0
    injected: int = 0
    requests: int = 0
    batches: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ends = ", ".join(f"{name} {count}" for name, count in sorted(self.ends.items()))
        share = f"{self.injected} of {self.requests} requests failed on purpose"
        return (
            f"seed {self.seed}, {self.provider}: {share}, {self.batches} batches, {self.longest:.1f} s at most; {ends}"
        )


async def chaos(folder: Path, seed: int, calls: int, provider: Provider = "openai") -> Report:
    """Makes that many calls."""
    report, late = Report(seed, provider), [0.0]
    times: dict[str, Any] = {"call_seconds": CALL_SECONDS, "idle_seconds": IDLE_SECONDS, "connect_seconds": 1.0}
    async with (
        FAKES[provider](Quirks()) as fake,
        before(fake, folder, provider, clock=lambda: time() + late[0], **times) as found,
    ):
        _inject(fake, Random(f"{seed} faults"), report)
        run = _Run(found, calls, report)
        await asyncio.gather(*(run.call(Random(f"{seed} {number}")) for number in range(CALLERS)))
        fake.faults.clear()
        report.requests = len(fake.requests)
        late[0] = DOUBT_SECONDS + 1.0
        await _judge(found, run, report)
    return report


def _inject(fake: Upstream, dice: Random, report: Report) -> None:
    """Lets a share of all requests go wrong, each in a way that its kind can."""

    def one_of(faults: list[Fault], where: Callable[[Seen], bool], share: float) -> None:
        for fault in faults:
            fake.faults.append(Due(fault, 1 << 30, lambda seen: where(seen) and hit(share / len(faults))))

    def hit(share: float) -> bool:
        found = dice.random() < share
        report.injected += found
        return found

    one_of(_OF_CONTENT, CONTENT, SHARE)
    one_of(_OF_UPLOADS, UPLOAD, SHARE / 4)
    one_of(_OF_OBJECTS, lambda seen: not CONTENT(seen), SHARE / 10)
    one_of(_ANYWHERE, lambda _: True, SHARE)


class _Run:
    """Callers that share a number of calls, and what they were told."""

    def __init__(self, found: Scene, calls: int, report: Report) -> None:
        self.created: dict[str, set[str]] = {}  # ids that a request was answered with, by its name
        self.uploaded: set[str] = set()
        self._found = found
        self._left = calls
        self._report = report
        self._files: list[str] = []
        self._batches: list[str] = []

    async def call(self, random: Random) -> None:
        base = str(self._found.door.rest.base_url)
        async with plain_client(base_url=base, headers=BEARER, timeout=60) as rest:
            caller = _Caller(rest, random, self)
            while self._left > 0:
                self._left -= 1
                (name,) = random.choices(list(MIX), weights=list(MIX.values()))
                await self._one(name, getattr(caller, name), random)

    async def _one(self, name: str, make: Callable[[], Awaitable[httpx.Response | None]], random: Random) -> None:
        began = perf_counter()
        leaves = random.random() < LEAVING
        try:
            async with asyncio.timeout(random.random() / 10 if leaves else None):
                answer = await make()
            end = str(answer.status_code) if answer else "nothing"
            if answer is not None and answer.status_code >= 300:
                self._check(name, answer)
        except TimeoutError:
            end = "left"
        except httpx.TransportError as error:  # a broken transfer, which is right for a content alone
            end = "broken"
            if name != "download":
                self._report.faults.append(f"{name}: {error!r}")
        except AssertionError as wrong:
            end = "wrong"
            self._report.faults.append(f"{name}: {wrong}")
        seconds = perf_counter() - began
        self._report.ends[f"{name} {end}"] += 1
        self._report.longest = max(self._report.longest, seconds)
        if seconds > MOST_SECONDS:
            self._report.faults.append(f"{name} took {seconds:.1f} s")

    def _check(self, name: str, answer: httpx.Response) -> None:
        try:
            (error,) = answer.json().values()
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"]
        except (ValueError, AssertionError, AttributeError):
            self._report.faults.append(f"{name}: {answer.status_code} {answer.text[:200]}")

    def file(self, random: Random) -> str:
        return random.choice(self._files[-20:]) if self._files else "file-none"

    def batch(self, random: Random) -> str:
        return random.choice(self._batches[-20:]) if self._batches else "batch_none"

    def note_file(self, file_id: str) -> None:
        self._files.append(file_id)
        self.uploaded.add(file_id)

    def note_batch(self, name: str, batch_id: str) -> None:
        self._batches.append(batch_id)
        self.created.setdefault(name, set()).add(batch_id)


MIX = {
    "upload": 15,
    "create": 20,
    "create_again": 10,
    "state": 20,
    "batches": 10,
    "download": 15,
    "cancel": 5,
    "describe": 5,
}


class _Caller:
    """One caller; each method is a call, and gives its answer."""

    def __init__(self, rest: httpx.AsyncClient, random: Random, run: _Run) -> None:
        self._rest = rest
        self._random = random
        self._run = run
        self._keys: list[tuple[str, dict[str, Any]]] = []

    async def upload(self) -> httpx.Response:
        answer = await self._rest.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", INPUT)})
        if answer.status_code == 200:
            self._run.note_file(answer.json()["id"])
        return answer

    async def create(self) -> httpx.Response | None:
        """With an idempotency key or none, with room for our mark or none."""
        file_id = self._run.file(self._random)
        if file_id == "file-none":
            return None
        name = f"{self._random.getrandbits(64):x}"
        metadata = {"name": name, **(_FULL if self._random.random() < 0.3 else {})}
        body = batch_request(file_id, metadata=metadata)
        if self._random.random() < 0.5:
            self._keys.append((name, body))
            return await self._post(name, body, {"idempotency-key": name})
        return await self._post(name, body, {})

    async def create_again(self) -> httpx.Response | None:
        if not self._keys:
            return None
        name, body = self._random.choice(self._keys[-5:])
        return await self._post(name, body, {"idempotency-key": name})

    async def _post(self, name: str, body: dict[str, Any], headers: Mapping[str, str]) -> httpx.Response:
        answer = await self._rest.post("/v1/batches", json=body, headers=headers)
        if answer.status_code == 200:
            self._run.note_batch(name, answer.json()["id"])
        return answer

    async def state(self) -> httpx.Response:
        return await self._rest.get(f"/v1/batches/{self._run.batch(self._random)}")

    async def batches(self) -> httpx.Response:
        return await self._rest.get("/v1/batches")

    async def describe(self) -> httpx.Response:
        return await self._rest.get(f"/v1/files/{self._run.file(self._random)}")

    async def download(self) -> httpx.Response:
        answer = await self._rest.get(f"/v1/files/{self._run.file(self._random)}/content")
        assert answer.status_code != 200 or answer.content == INPUT, "a content that is not the file's"
        return answer

    async def cancel(self) -> httpx.Response:
        return await self._rest.post(f"/v1/batches/{self._run.batch(self._random)}/cancel")


async def _judge(found: Scene, run: _Run, report: Report) -> None:
    there = found.fake.batches
    report.batches = len(there)

    async def doubts() -> int:
        return found.intents()

    await until(doubts, lambda count: count == 0, _PATIENCE)
    listed = await _listed(found)
    report.faults += [f"lost: {batch_id}" for batch_id in there.keys() - listed.keys()]
    report.faults += [f"made up: {batch_id}" for batch_id in listed.keys() - there.keys()]
    names = Counter(batch["metadata"]["name"] for batch in there.values())
    marks = Counter(batch["metadata"][MARK] for batch in there.values() if MARK in batch["metadata"])
    report.faults += [f"made {count} times: {name}" for name, count in (names + marks).items() if count > 1]
    for name, ids in run.created.items():
        if {there[batch_id]["metadata"]["name"] for batch_id in ids & there.keys()} != {name} or len(ids) != 1:
            report.faults.append(f"answered with another: {name} {ids}")
    report.faults += [f"shown: {batch_id}" for batch_id, batch in listed.items() if MARK in str(batch)]
    report.faults += [f"not there: {file_id}" for file_id in run.uploaded - found.fake.files.keys()]


async def _listed(found: Scene) -> dict[str, Any]:
    """Every batch that the front door knows."""
    listed: dict[str, Any] = {}
    after = ""
    while True:
        page = (
            await found.door.rest.get("/v1/batches", params={"limit": 100, **({"after": after} if after else {})})
        ).json()
        listed |= {batch["id"]: batch for batch in page["data"]}
        if not page["has_more"]:
            return listed
        after = page["last_id"]
