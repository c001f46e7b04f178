"""What calls of the registry cost beside few rows, and beside very many: CPU time of all threads."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import process_time
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert
from tests.registries import a_batch, a_file, opened

from batchyard.service.config.settings import Quotas, Rate
from batchyard.service.domain.keys import KeyRecord
from batchyard.service.domain.quotas import Bound
from batchyard.service.domain.records import IdempotencyKey, Status
from batchyard.service.registry.base import REGISTRY
from batchyard.service.registry.deployment import RemoteRegistry
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.schema import batches, files
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.usage import UsageEstimate
from batchyard.service.registry.work import WorkRegistry

FEW = 10
_NOW = 1_700_000_000
_ELSEWHERE = 5  # of the rows, however many there are
_PIECE = 10_000
_ROUNDS, _CALLS, _AT_ONCE = 5, 100, 20
_PLENTY = 10**12
_LIMITS = Quotas(batches_in_flight=_PLENTY, enqueued_tokens=_PLENTY, lines_per_day=_PLENTY, tokens_per_day=_PLENTY)
_KEY = KeyRecord(id="key_1", tenant="a", name="k", providers=("west",), limits=_LIMITS)

Call = Callable[[], Awaitable[object]]


class Grown(NamedTuple):
    """Microseconds of a call beside few rows and beside many."""

    name: str
    few: float
    many: float

    def __str__(self) -> str:
        return f"{self.name:34}{self.few:>9.0f}{self.many:>9.0f}{self.many / self.few:>8.2f}"


async def growth(folder: Path, rows: int) -> tuple[list[Grown], float]:
    """All calls at FEW and at `rows` batches; and by how many MiB the process's memory rose between the two."""
    (folder / "few").mkdir()
    (folder / "many").mkdir()
    few = await _measured(folder / "few", FEW)
    before = getrusage(RUSAGE_SELF).ru_maxrss
    many = await _measured(folder / "many", rows)
    rise = (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024
    return [Grown(name, few[name], cost) for name, cost in many.items()], rise


async def _measured(folder: Path, rows: int) -> dict[str, float]:
    async with opened(folder) as database:
        for start in range(0, rows, _PIECE):
            await database.write(partial(_fill, start=start, end=min(rows, start + _PIECE)), REGISTRY)
    async with opened(folder) as database:  # as after a start
        return {name: await _cost(call) for name, call in _calls(database, rows).items()}


def _fill(connection: Connection, start: int, end: int) -> None:
    """Batches of the last day that have ended, and their inputs; the first few of them at a deployment."""
    numbers = range(start, end)
    connection.execute(insert(batches), [_batch(number) for number in numbers])
    connection.execute(insert(files), [{**a_file(number), "tenant": "a", **_place(number)} for number in numbers])


def _batch(number: int) -> dict[str, Any]:
    used = {"estimated_tokens": 9, "estimated_lines": 3, "completed": 3, "total": 3, "input_tokens": 9}
    ended = {"status": Status.COMPLETED, "created_at": _NOW - number % 80_000, "tenant": "a"}
    return {**a_batch(number, f"file-{number}"), **ended, **used, **_place(number)}


def _place(number: int) -> dict[str, Any]:
    if number >= _ELSEWHERE:
        return {"provider": "local", "deployment": None, "native_id": None}
    return {"provider": "openai", "deployment": "west", "native_id": f"native-{number}"}


def _calls(database: SqliteDatabase, rows: int) -> dict[str, Call]:
    """Each call that callers, the engine and a follower make all the time."""
    owner, west = TenantRegistry(database, "a"), TenantRegistry(database, "a", _KEY)
    bounded = TenantRegistry(database, "a", _KEY, bounds=[Bound(_LIMITS, "a", _KEY), Bound(_LIMITS, "a")])
    work, remote = WorkRegistry(database, "w"), RemoteRegistry(database, "west", lambda _: None)
    number, middle = count(rows), rows // 2

    def new() -> dict[str, Any]:
        return a_batch(next(number), created_at=_NOW)

    return {
        "get a batch": lambda: owner.get_batch(f"batch_{middle}"),
        "get a file": lambda: owner.get_file(f"file-{middle}"),
        "list": lambda: owner.list_batches(provider="", after="", limit=FEW // 2),
        "list after another": lambda: owner.list_batches(provider="", after=f"batch_{middle}", limit=FEW // 2),
        "list a place": lambda: owner.list_batches(provider="west", after="", limit=FEW),
        "list by a key of a place": lambda: west.list_batches(provider="", after="", limit=FEW),
        "list files": lambda: owner.list_files(provider="", purpose="", after="", limit=5, ascending=False),
        "look for live batches": remote.live,
        "claim, where none is free": lambda: work.claim_batches(_NOW, _NOW + 60),
        "create": lambda: owner.add_batch(new()),
        "create, with every limit and a key": lambda: bounded.add_batch(
            (row := new()), IdempotencyKey(row["id"], "digest", _NOW), Rate(_PLENTY, 3600), UsageEstimate(9, 3)
        ),
    }


async def _cost(call: Call) -> float:
    """Microseconds, in the median round."""
    rounds = []
    for _ in range(_ROUNDS):
        began = process_time()
        for _ in range(_CALLS // _AT_ONCE):
            await asyncio.gather(*(call() for _ in range(_AT_ONCE)))
        rounds.append((process_time() - began) / _CALLS * 1e6)
    return median(rounds)
