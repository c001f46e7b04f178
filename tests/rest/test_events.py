"""A batch followed over REST as a browser would, if it could send a key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from itertools import pairwise
from pathlib import Path

import pytest
from tests.eventsource import Event, EventSource
from tests.fakes import Sluice, sluiced
from tests.harness import PATIENCE, chat_lines, jsonl

from batchyard.service.config.settings import Limits, LocalSettings

from .conftest import BATCH_KEYS, Door, opened, refusal

LINES = 50


@pytest.fixture
async def steady(tmp_path: Path) -> AsyncIterator[tuple[Door, Sluice]]:
    """A front door behind which as many lines end as the sluice lets through."""
    async with sluiced() as (sluice, fake), opened(tmp_path, local=LocalSettings(api_base=fake.api_base)) as running:
        yield running, sluice


async def started(door: Door, lines: int) -> str:
    """The id of a new batch."""
    return str((await door.create((await door.upload(jsonl(chat_lines(lines))))["id"]))["id"])


def completed_in(state: Event) -> int:
    return int(state.json()["request_counts"]["completed"])


async def test_a_batch_is_followed_to_its_end(steady: tuple[Door, Sluice]) -> None:
    door, sluice = steady
    batch_id = await started(door, LINES)
    events = []
    async with asyncio.timeout(PATIENCE):
        async for event in EventSource(door.rest, f"/v1/batches/{batch_id}/events").connect():
            events.append(event)
            if event.name == "batch":
                sluice.allow(done + 1 if (done := completed_in(event)) < 2 else LINES)
    *states, end = events
    assert (end.name, end.last_id) == ("end", "end")
    assert {state.name for state in states} == {"batch"}
    batches = [state.json() for state in states]
    assert all(set(batch) == BATCH_KEYS for batch in batches)
    completed = [batch["request_counts"]["completed"] for batch in batches]
    assert completed == sorted(completed)
    assert len(set(completed)) > 2
    assert batches[-1] == (await door.rest.get(f"/v1/batches/{batch_id}")).json()
    assert batches[-1]["status"] == "completed"
    assert all(one.last_id != other.last_id for one, other in pairwise(states))


async def test_a_watch_that_breaks_off_twice_goes_on_where_the_batch_is(
    steady: tuple[Door, Sluice],
) -> None:
    door, sluice = steady
    source = EventSource(door.rest, f"/local/batches/{await started(door, LINES)}/events")
    shown = []
    async with asyncio.timeout(PATIENCE):
        for _ in range(2):
            async with aclosing(source.connect()) as events:  # type: ignore[type-var]
                state = await anext(events)
                sluice.allow(completed_in(state) + 1)
                shown += [state.json(), (await anext(events)).json()]
        sluice.allow(LINES)
        shown += [event.json() async for event in source.connect() if event.name == "batch"]
        assert [event async for event in source.connect()] == []
    assert source.closed
    completed = [batch["request_counts"]["completed"] for batch in shown]
    assert completed == sorted(completed)
    assert shown[-1]["status"] == "completed"


async def test_a_batch_that_has_ended_is_shown_once(door: Door) -> None:
    batch = await door.run(chat_lines(1))
    state, end = [event async for event in EventSource(door.rest, f"/v1/batches/{batch['id']}/events").connect()]
    assert (state.json(), end.name) == (batch, "end")


async def test_an_unknown_batch_is_404(door: Door) -> None:
    refusal(await door.rest.get("/v1/batches/batch_none/events"), 404)


async def test_a_watch_needs_a_key(door: Door) -> None:
    batch = await door.run(chat_lines(1))
    refusal(await door.rest.get(f"/v1/batches/{batch['id']}/events", headers={"authorization": ""}), 401)


async def test_many_who_follow_leave_room_for_other_requests(tmp_path: Path) -> None:
    slow = LocalSettings(echo=True, echo_delay_ms=60_000)
    async with opened(tmp_path, local=slow, limits=Limits(max_concurrent_calls=8)) as door, AsyncExitStack() as open_:
        path = f"/v1/batches/{await started(door, 1)}/events"
        answers = [await open_.enter_async_context(door.rest.stream("GET", path)) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 2
        assert all("retry-after" in answer.headers for answer in answers[6:])
        for other in ("/health/readiness", "/v1/batches"):
            assert (await door.rest.get(other)).status_code == 200
