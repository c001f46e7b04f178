"""A batch followed over REST as a browser would, if it could send a key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest
from tests.eventsource import EventSource
from tests.harness import PATIENCE, chat_lines, jsonl

from batchyard.service.settings import LocalSettings

from .conftest import BATCH_KEYS, Door, opened, refusal

STEADY = LocalSettings(echo=True, echo_delay_ms=20, max_concurrency=2)


@pytest.fixture
async def steady(tmp_path: Path) -> AsyncIterator[Door]:
    """A front door behind which a line takes its time."""
    async with opened(tmp_path, local=STEADY) as running:
        yield running


async def started(door: Door, lines: int) -> str:
    """The id of a new batch."""
    return str((await door.create((await door.upload(jsonl(chat_lines(lines))))["id"]))["id"])


async def test_a_batch_is_followed_to_its_end(steady: Door) -> None:
    batch_id = await started(steady, 50)
    async with asyncio.timeout(PATIENCE):
        *states, end = [e async for e in EventSource(steady.rest, f"/v1/batches/{batch_id}/events").connect()]
    assert (end.name, end.last_id) == ("end", "end")
    assert {state.name for state in states} == {"batch"}
    batches = [state.json() for state in states]
    assert all(set(batch) == BATCH_KEYS for batch in batches)
    completed = [batch["request_counts"]["completed"] for batch in batches]
    assert completed == sorted(completed)
    assert len(set(completed)) > 2
    assert batches[-1] == (await steady.rest.get(f"/v1/batches/{batch_id}")).json()
    assert batches[-1]["status"] == "completed"
    assert all(one.last_id != other.last_id for one, other in pairwise(states))


async def test_a_watch_that_breaks_off_twice_goes_on_where_the_batch_is(steady: Door) -> None:
    source = EventSource(steady.rest, f"/local/batches/{await started(steady, 50)}/events")
    shown = []
    async with asyncio.timeout(PATIENCE):
        for _ in range(2):
            async with aclosing(source.connect()) as events:  # type: ignore[type-var]
                shown += [(await anext(events)).json(), (await anext(events)).json()]
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
