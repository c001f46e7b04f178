"""A wall clock that jumps loses nothing. A test's name is a row of docs/bad-inputs.md, its docstring the answer."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.responses import Response
from tests.fakes import FakeEndpoint, Gate, completion, fake_endpoint
from tests.harness import Client, chat_lines, jsonl, service, settings_for, until

from batchyard.service.config.settings import Limits, LocalSettings, RetentionSettings, Settings
from batchyard.v1 import Batch, BatchStatus, CancelBatchRequest, ListFilesRequest

HOURS = 3600.0
COMPLETED = BatchStatus.BATCH_STATUS_COMPLETED
IN_PROGRESS = BatchStatus.BATCH_STATUS_IN_PROGRESS
LINES = 20
FIRST = 5  # lines that are answered at once; the others wait for the gate


class Clock:
    """The real time, and by how much it was put forward or back."""

    def __init__(self) -> None:
        self.off = 0.0

    def __call__(self) -> float:
        return time.time() + self.off


class Running(NamedTuple):
    """A service whose batch waits for the gate in the midst of its lines."""

    clock: Clock
    steady: Clock
    client: Client
    gate: Gate
    endpoint: FakeEndpoint
    batch: Batch


def settings(folder: Path, endpoint: FakeEndpoint, active: int = 1) -> Settings:
    local = LocalSettings(api_base=endpoint.api_base, max_active_batches=active)
    return settings_for(folder, local=local, retention=RetentionSettings(sweep_seconds=0.02))


@asynccontextmanager
async def gated() -> AsyncIterator[tuple[Gate, FakeEndpoint]]:
    gate = Gate()

    async def behaviour(body: dict[str, Any], before: int) -> Response:
        if int(body["messages"][-1]["content"].split()[1]) >= FIRST:
            await gate.passed()
        return completion(body)

    async with fake_endpoint(behaviour) as fake:
        try:
            yield gate, fake
        finally:
            gate.open()


@asynccontextmanager
async def running(folder: Path, active: int = 1) -> AsyncIterator[Running]:
    clock, steady = Clock(), Clock()
    async with (
        gated() as (gate, fake),
        service(settings(folder, fake, active), clock=clock, steady=steady) as (_, client),
    ):
        file = await client.upload(jsonl(chat_lines(LINES)))
        created = await client.create(file.id)
        batch = await until(lambda: client.get(created.id), lambda batch: batch.request_counts.completed == FIRST)
        yield Running(clock, steady, client, gate, fake, batch)


def times(batch: Batch) -> list[int]:
    """The timestamps that are set, in the order in which they must be."""
    names = "created_at", "in_progress_at", "cancelling_at", "finalizing_at", "completed_at", "cancelled_at"
    return [getattr(batch, name) for name in names if getattr(batch, name)]


async def assert_whole(client: Client, batch: Batch) -> None:
    """Every line is there, once, and no time runs backwards."""
    assert batch.status == COMPLETED
    found = [line["custom_id"] for line in await client.results(batch.output_file_id)]
    assert found == [f"request-{number}" for number in range(LINES)]
    assert times(batch) == sorted(times(batch))


async def test_the_clock_jumps_back_six_hours_while_a_batch_runs(tmp_path: Path) -> None:
    """The batch goes on. Its timestamps never run backwards; its window ends when it was said."""
    async with running(tmp_path) as found:
        found.clock.off = -6 * HOURS
        found.gate.open()
        batch = await found.client.ended(found.batch.id)
        await assert_whole(found.client, batch)
        assert batch.expires_at == found.batch.expires_at
        assert max(found.endpoint.calls.values()) == 1


async def test_the_clock_jumps_back_while_a_batch_waits_for_its_turn(tmp_path: Path) -> None:
    """`in_progress_at` is `created_at` at the least."""
    async with running(tmp_path) as found:
        waiting = await found.client.create(found.batch.input_file_id)
        found.clock.off = -6 * HOURS
        found.gate.open()
        await assert_whole(found.client, await found.client.ended(waiting.id))


async def test_the_clock_jumps_back_before_a_batch_is_cancelled(tmp_path: Path) -> None:
    """`cancelling_at` and `cancelled_at` are what was before them at the least."""
    async with running(tmp_path) as found:
        found.clock.off = -6 * HOURS
        request = CancelBatchRequest(batch_id=found.batch.id)
        await found.client.stub.CancelBatch(request, metadata=found.client.metadata)
        found.gate.open()
        batch = await found.client.ended(found.batch.id)
        assert len(times(batch)) == 4
        assert times(batch) == sorted(times(batch))


async def test_the_clock_jumps_back_over_a_restart(tmp_path: Path) -> None:
    """The leases of the process that ended are void: the batch goes on at once, and no line that counts runs again."""
    async with gated() as (gate, fake):
        async with service(settings(tmp_path, fake)) as (_, client):
            file = await client.upload(jsonl(chat_lines(LINES)))
            batch = await client.create(file.id)
            await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed == FIRST)
        gate.open()
        clock = Clock()
        clock.off = -6 * HOURS
        async with service(settings(tmp_path, fake), clock=clock) as (_, client):
            await assert_whole(client, await client.ended(batch.id))
        assert {fake.calls[f"question {number}"] for number in range(FIRST)} == {1}


async def test_the_clock_jumps_forward_by_less_than_the_window_and_back_again(tmp_path: Path) -> None:
    """The batch goes on: deadlines of lines don't read the clock, and the leases stay with this process."""
    async with running(tmp_path, active=2) as found:
        for off in (23 * HOURS, 0.0, 20 * HOURS):
            found.clock.off = off
            other = await found.client.create("file-none")  # wakes those who look for work
            assert (await found.client.ended(other.id)).status == BatchStatus.BATCH_STATUS_FAILED
            assert (await found.client.get(found.batch.id)).status == IN_PROGRESS
        found.gate.open()
        await assert_whole(found.client, await found.client.ended(found.batch.id))
        assert max(found.endpoint.calls.values()) == 1


async def test_the_clock_jumps_forward_beyond_the_window(tmp_path: Path) -> None:
    """The batch goes on for an hour. If the clock stays there it expires: results that are there are kept, other lines
    are `batch_expired`; a jump back is too late then.
    """
    async with running(tmp_path) as found:
        found.clock.off = 25 * HOURS
        other = await found.client.create("file-none")  # wakes those who look
        await found.client.ended(other.id)
        assert (await found.client.get(found.batch.id)).status == IN_PROGRESS
        found.steady.off = HOURS + 1
        found.clock.off += HOURS + 1
        batch = await found.client.ended(found.batch.id)
        found.clock.off = 0.0
        assert await found.client.get(batch.id) == batch
        assert batch.status == BatchStatus.BATCH_STATUS_EXPIRED
        assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.expired_at
        output = await found.client.results(batch.output_file_id)
        errors = await found.client.results(batch.error_file_id)
        assert {line["error"]["code"] for line in errors} == {"batch_expired"}
        assert len(output) + len(errors) == LINES
        assert (batch.request_counts.completed, batch.request_counts.failed) == (len(output), 0)
        assert len(output) >= FIRST


async def test_the_clock_jumps_back_with_files_and_idempotency_keys_there(tmp_path: Path) -> None:
    """None of them ends early; files that come now are listed before those that were there."""
    clock = Clock()
    async with gated() as (_, fake), service(settings(tmp_path, fake), clock=clock) as (_, client):
        file = await client.upload(jsonl(chat_lines(1)))
        batch = await client.create(file.id, idempotency_key="once")
        clock.off = -40 * 24 * HOURS
        later = await client.upload(b"{}", purpose="user_data")
        assert (await client.create(file.id, idempotency_key="once")).id == batch.id
        ended = await client.ended(batch.id)
        listed = await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)
        assert [found.id for found in listed.data] == [ended.output_file_id, later.id, file.id]
        assert await client.read(file.id) == jsonl(chat_lines(1))


@pytest.mark.parametrize("back", [True, False])
async def test_the_clock_jumps_forward_beyond_the_expiry_of_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, back: bool
) -> None:
    """No file is deleted before it has stayed there for an hour."""
    clock, steady = Clock(), Clock()
    async with gated() as (_, fake), service(settings(tmp_path, fake), clock=clock, steady=steady) as (_, client):
        batch = await client.ended((await client.create((await client.upload(jsonl(chat_lines(1)))).id)).id)
        clock.off = 31 * 24 * HOURS
        await until(lambda: logged(caplog), lambda text: "the clock jumped ahead" in text)
        clock.off = 0.0 if back else clock.off
        assert len(await client.results(batch.output_file_id)) == 1
        if not back:
            steady.off = 2 * HOURS
            await until(lambda: names(client), lambda found: not found)


@asynccontextmanager
async def restarted(folder: Path, off: float) -> AsyncIterator[tuple[Running, str]]:
    """A service that ran a minute ago, and whose host has booted with a clock that is off; and the id of a file."""
    clock, steady = Clock(), Clock()
    async with gated() as (gate, fake):
        async with service(settings(folder, fake), clock=clock, steady=steady) as (_, client):
            file = await client.upload(jsonl(chat_lines(LINES)))
            other = await client.upload(jsonl(chat_lines(1)))
            batch = await client.create(file.id, idempotency_key="once")
            await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed == FIRST)
        clock.off, steady.off = off, -500 * 24 * HOURS
        async with service(settings(folder, fake), clock=clock, steady=steady) as (_, client):
            yield Running(clock, steady, client, gate, fake, batch), other.id


async def test_the_host_boots_with_its_clock_ahead(tmp_path: Path) -> None:
    """No file, idempotency key or window ends by that time before the clock has stayed there for an hour."""
    async with restarted(tmp_path, 90 * 24 * HOURS) as (found, file_id):
        swept = await found.client.create("file-none")
        await found.client.ended(swept.id)
        again = await found.client.create(found.batch.input_file_id, idempotency_key="once")
        assert again.id == found.batch.id
        assert again.status == IN_PROGRESS
        assert await found.client.read(file_id) == jsonl(chat_lines(1))
        found.clock.off = 60.0  # it is set right
        found.gate.open()
        await assert_whole(found.client, await found.client.ended(found.batch.id))
        assert file_id in await names(found.client)


async def test_the_host_boots_with_its_clock_ahead_and_it_stays_there(tmp_path: Path) -> None:
    """After an hour that is the time."""
    async with restarted(tmp_path, 90 * 24 * HOURS) as (found, file_id):
        assert file_id in await names(found.client)
        found.steady.off += HOURS + 60
        found.clock.off += HOURS + 60
        await until(lambda: names(found.client), lambda listed: file_id not in listed)
        assert (await found.client.ended(found.batch.id)).status == BatchStatus.BATCH_STATUS_EXPIRED


async def test_the_host_boots_with_its_clock_behind(tmp_path: Path) -> None:
    """For an hour at most, time goes on from where it was, so that nothing ends early once the clock is right."""
    async with restarted(tmp_path, -50 * 365 * 24 * HOURS) as (found, _):
        later = await found.client.upload(jsonl(chat_lines(1)))
        assert later.created_at >= found.batch.created_at
        assert later.expires_at == later.created_at + 30 * 24 * HOURS
        found.clock.off = 60.0
        found.gate.open()
        await assert_whole(found.client, await found.client.ended(found.batch.id))
        assert await found.client.read(later.id) == jsonl(chat_lines(1))


async def test_the_clock_jumps_back_behind_what_a_rate_counts(tmp_path: Path) -> None:
    """What was done in the time that is to come again counts for no limit."""
    clock = Clock()
    limits = Limits(max_files_per_minute=1, max_batches_per_hour=1)
    async with service(settings_for(tmp_path, limits=limits), clock=clock) as (_, client):
        for off in (0.0, -6 * HOURS):
            clock.off = off
            await client.create((await client.upload(jsonl(chat_lines(1)))).id)


async def logged(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.text


async def names(client: Client) -> list[str]:
    listed = await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)
    return [file.id for file in listed.data]
