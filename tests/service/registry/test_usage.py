"""What tenants and keys use, against a plain model, whatever happens to their batches and files."""

import asyncio
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, update

from batchyard.service.config.settings import Quotas
from batchyard.service.domain.keys import KeyRecord
from batchyard.service.domain.quotas import DAY_SECONDS, Bound
from batchyard.service.domain.records import ENDED, Status
from batchyard.service.errors import Busy
from batchyard.service.registry.base import REGISTRY
from batchyard.service.registry.deployment import Intent, RemoteRegistry
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.schema import IS_LIVE, batches
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.usage import Usage, UsageEstimate, stored_bytes, used_now, used_today

KEYS = {name: KeyRecord(id=f"key_{name}", tenant=name[0], name=name) for name in ("a1", "a2", "b1")}
HOUR = 3600
START = 1_800_000_000

STEP = st.one_of(
    st.tuples(st.just("create"), st.sampled_from([*KEYS, "a", "b"]), st.integers(0, 90), st.integers(0, 9)),
    st.tuples(st.just("ask"), st.sampled_from([*KEYS, "a"]), st.integers(0, 90), st.integers(0, 9)),
    st.tuples(st.just("answer"), st.booleans(), st.just(0), st.just(0)),
    st.tuples(st.just("cancel"), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("end"), st.sampled_from([*"cfex"]), st.integers(0, 9), st.integers(0, 500)),
    st.tuples(st.just("file"), st.sampled_from([*KEYS, "a"]), st.integers(0, 99), st.just(0)),
    st.tuples(st.just("delete"), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("pass"), st.integers(0, 20), st.just(0), st.just(0)),
)
ENDS = {"c": Status.COMPLETED, "f": Status.FAILED, "e": Status.EXPIRED, "x": Status.CANCELLED}


@dataclass
class Made:
    """A batch of the model."""

    who: str
    number: int
    at: int
    tokens: int
    lines: int
    status: str = "asked"  # of a deployment, which has not answered
    used: int = 0
    completed: int = 0

    @property
    def ended(self) -> bool:
        return self.status in ENDS.values()

    @property
    def usage(self) -> Usage:
        if not self.ended:
            return Usage(1, self.tokens, self.lines)
        estimate = self.tokens * self.completed // self.lines if self.lines else 0
        return Usage(1, self.used or estimate, self.completed)


class Play:
    """The same steps for a registry and for the model."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.database = database
        self.remote = RemoteRegistry(database, "openai", lambda _: None)
        self.now = START
        self.batches: list[Made] = []
        self.files: list[tuple[str, str, int]] = []
        self.numbers = iter(range(1000))

    def owner(self, who: str) -> TenantRegistry:
        return TenantRegistry(self.database, who[0], KEYS.get(who))

    async def create(self, who: str, tokens: int, lines: int) -> None:
        made = Made(who, next(self.numbers), self.now, tokens, lines, Status.VALIDATING)
        await self.owner(who).add_batch(row(made), estimate=UsageEstimate(tokens, lines))
        self.batches.append(made)

    async def ask(self, who: str, tokens: int, lines: int) -> None:
        made = Made(who, next(self.numbers), self.now, tokens, lines)
        await self.remote.begin(self.owner(who), self.intent(made), None, None)
        self.batches.append(made)

    async def answer(self, good: bool, *_: int) -> None:
        made = next((one for one in self.batches if one.status == "asked"), None)
        if made and good:
            values = {"status": Status.VALIDATING, "created_at": made.at, "expires_at": made.at + DAY_SECONDS}
            await self.remote.complete(self.intent(made), f"batch_{made.number}", values)
            made.status = Status.VALIDATING
        elif made:
            await self.remote.drop(self.intent(made))
            self.batches.remove(made)

    async def cancel(self, *_: int) -> None:
        made = next((one for one in self.batches if one.status == Status.VALIDATING), None)
        if made:
            await self.owner(made.who).cancel_batch(f"batch_{made.number}", "", self.now)
            made.status = Status.CANCELLING

    async def end(self, how: str, completed: int, used: int) -> None:
        made = next((one for one in self.batches if not one.ended and one.status != "asked"), None)
        if made:
            made.status, made.completed, made.used = ENDS[how], min(completed, made.lines), used
            values = {"status": made.status, "completed": made.completed, "output_tokens": used}
            query = update(batches).where(batches.c.id == f"batch_{made.number}").values(**values)
            await self.database.write(lambda connection: connection.execute(query), REGISTRY)

    async def file(self, who: str, size: int, *_: int) -> None:
        name = f"file-{next(self.numbers)}"
        values = {"id": name, "provider": "local", "purpose": "batch", "filename": "a", "status": "processed"}
        await self.owner(who).add_file({**values, "bytes": size, "created_at": self.now}, [])
        self.files.append((name, who, size))

    async def delete(self, *_: int) -> None:
        if self.files:
            name, who, _size = self.files.pop(0)
            await self.owner(who).delete_file(name, "", self.now)

    async def pass_(self, hours: int, *_: int) -> None:
        self.now += hours * HOUR

    def intent(self, made: Made) -> Intent:
        values = row(made) | UsageEstimate(made.tokens, made.lines).columns
        request = {name: values[name] for name in values if name not in ("id", "status", "created_at", "expires_at")}
        key = KEYS.get(made.who)
        request |= {"source": {}, "marked": True, "key_id": key.id if key else None}
        return Intent(f"intent-{made.number}", made.who[0], "openai", request, None, None, made.at)

    def bounds(self) -> Iterator[tuple[Bound, Callable[[str], bool]]]:
        """Each that there could be, with whose things count for it."""
        for tenant in "ab":
            yield Bound(Quotas(), tenant), lambda who, tenant=tenant: who[0] == tenant  # type: ignore[misc]
        for name, key in KEYS.items():
            yield Bound(Quotas(), name[0], key), lambda who, name=name: who == name  # type: ignore[misc]

    async def compare(self) -> None:
        for bound, counts in self.bounds():
            mine = [one for one in self.batches if counts(one.who)]
            now = total(one.usage for one in mine if not one.ended)
            today = total(one.usage for one in mine if one.status == "asked" or one.at > self.now - DAY_SECONDS)
            stored = sum(size for _, who, size in self.files if counts(who))

            def look(connection: Connection, bound: Bound = bound) -> Any:
                day = used_today(connection, bound, self.now)._replace(batches=0)  # those of nothing are left out
                return used_now(connection, bound), day, stored_bytes(connection, bound)

            assert await self.database.read(look) == (now, today._replace(batches=0), stored)


def row(made: Made) -> dict[str, Any]:
    return {
        "id": f"batch_{made.number}",
        "provider": "openai",
        "endpoint": "/v1/responses",
        "input_file_id": "file-none",
        "completion_window": "24h",
        "status": Status.VALIDATING,
        "created_at": made.at,
        "expires_at": made.at + DAY_SECONDS,
        "metadata": {},
        "output_seconds": 0,
    }


def total(usages: Iterable[Usage]) -> Usage:
    found = list(usages)
    return Usage(*map(sum, zip(*found, strict=True))) if found else Usage()


@settings(max_examples=20, deadline=None)
@given(st.lists(STEP, max_size=30))
def test_what_is_used_is_what_a_plain_model_says(steps: list[tuple[str, Any, int, int]]) -> None:
    async def play() -> None:
        with TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/registry.sqlite3"
            database = await asyncio.to_thread(SqliteDatabase, url)
            try:
                playing = Play(database)
                for name, *values in steps:
                    await getattr(playing, "pass_" if name == "pass" else name)(*values)
                    await playing.compare()
            finally:
                await asyncio.to_thread(database.close)
            playing.database = await asyncio.to_thread(SqliteDatabase, url)  # as after a restart
            try:
                await playing.compare()
            finally:
                await asyncio.to_thread(playing.database.close)

    asyncio.run(play())


@pytest.fixture
async def database(tmp_path: Path) -> Any:
    opened = await asyncio.to_thread(SqliteDatabase, f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    yield opened
    await asyncio.to_thread(opened.close)


LIVE = "ix_batches_tenant_key_id_estimated_tokens_estimated_lines_status"


async def test_what_is_used_is_read_from_indexes(database: SqliteDatabase) -> None:
    statements: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        statements.append((statement, parameters))

    def look(connection: Connection) -> list[str]:
        event.listen(connection, "before_cursor_execute", note)
        for bound in (Bound(Quotas(), "a"), Bound(Quotas(), "a", KEYS["a1"])):
            used_now(connection, bound), used_today(connection, bound, START), stored_bytes(connection, bound)
        event.remove(connection, "before_cursor_execute", note)
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values) for text, values in statements]
        return [str(row[3]) for plan in plans for row in plan]

    by_tenant, by_key = (found := await database.read(look))[:5], found[5:]
    live = f"SEARCH batches USING COVERING INDEX {LIVE} (tenant=?"
    kept = "SEARCH files USING COVERING INDEX ix_files_tenant_deleted_at_key_id_bytes (tenant=? AND deleted_at=?"
    day = "SEARCH batches USING INDEX ix_batches_tenant_created_at (tenant=? AND created_at>? AND created_at<?)"
    intents = "SEARCH intents USING INDEX sqlite_autoindex_intents_2 (tenant=?)"
    assert by_tenant == [f"{live})", intents, day, intents, f"{kept})"]
    assert by_key == [f"{live} AND key_id=?)", intents, day, intents, f"{kept} AND key_id=?)"]


def test_the_index_of_live_batches_knows_every_end() -> None:
    assert set(re.findall(r"'(\w+)'", IS_LIVE.text)) == set(ENDED)


async def test_a_refusal_says_when_enough_of_the_day_is_over(database: SqliteDatabase) -> None:
    playing = Play(database)
    dice = random.Random(7)
    for _ in range(30):
        await playing.create("a1", 0, dice.randrange(5))
        playing.now += dice.randrange(HOUR)
    used = sum(one.lines for one in playing.batches)
    bound = Bound(Quotas(lines_per_day=used), "a")
    for wanted in range(1, used + 1):
        gone, expected = 0, DAY_SECONDS
        for one in playing.batches:
            gone += one.lines
            if gone >= wanted:
                expected = one.at + DAY_SECONDS - playing.now
                break
        owner = TenantRegistry(database, "a", bounds=[bound])
        late = Made("a", 1000, playing.now, 0, wanted)
        with pytest.raises(Busy) as caught:
            await owner.add_batch(row(late), estimate=UsageEstimate(0, wanted))
        assert caught.value.retry_after == expected
    with pytest.raises(Busy) as caught:  # it never fits
        await owner.add_batch(row(late), estimate=UsageEstimate(0, used + 1))
    assert caught.value.retry_after == DAY_SECONDS
