"""An endpoint that is away: its batches wait, say why, and lose no line; and so where it is only too much for it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import pytest
from starlette.responses import Response
from tests.fakes import Going, completion, failure, fake_endpoint
from tests.harness import PATIENCE, Client, chat_line, chat_lines, jsonl, service, settings_for, until
from tests.service.running import RESPONSES, answering, runner

from batchyard.service.config.settings import LocalSettings
from batchyard.service.jsonl.results import Answer
from batchyard.v1 import Batch, BatchStatus, CancelBatchRequest

MOST = 8
LINES = chat_lines(3 * MOST)
AWAY = [503, 521, 523, 525, 526, 529, 530]


class Weather:
    """A behaviour that refuses with `status` while it is not None; `asked` counts the refusals."""

    def __init__(self, status: int | None) -> None:
        self.status = status
        self.asked = 0

    async def __call__(self, body: dict[str, Any], before: int) -> Response:
        if self.status is None:
            return completion(body)
        self.asked += 1
        return failure(self.status)


def reason(batch: Batch) -> str:
    return " ".join(placement.reason for placement in batch.placements)


async def says(client: Client, batch_id: str, why: str) -> Batch:
    """The batch, when it says that it waits and why."""
    return await until(lambda: client.get(batch_id), lambda batch: why in reason(batch))


@asynccontextmanager
async def away(folder: Path, **changes: Any) -> AsyncIterator[tuple[Weather, Client, Callable[[], Any]]]:
    """A service whose endpoint takes nothing; what starts it again on its data."""
    weather = Weather(503)
    async with fake_endpoint(weather) as fake:
        local = LocalSettings(api_base=fake.api_base, max_concurrency=MOST, max_attempts=1, **changes)

        def start(**more: Any) -> Any:
            return service(settings_for(folder, local=local), **more)

        async with start() as (_, client):
            yield weather, client, start


async def test_costs_no_line_and_is_asked_by_one_line_at_a_time(tmp_path: Path) -> None:
    async with away(tmp_path) as (weather, client, _):
        file = await client.upload(jsonl(LINES))
        batches = [await client.create(file.id) for _ in range(2)]
        for batch in batches:
            seen = await says(client, batch.id, "waiting for the endpoint: it answers with HTTP status 503")
            assert (seen.status, seen.request_counts.failed) == (BatchStatus.BATCH_STATUS_IN_PROGRESS, 0)
        assert weather.asked < 2 * MOST
        weather.status = None
        ended = [await client.ended(batch.id) for batch in batches]
        assert [batch.request_counts.completed for batch in ended] == [len(LINES)] * 2
        assert [reason(batch) for batch in ended] == ["", ""]


async def test_of_the_connection_costs_no_line(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # not listening: refuses
        port = bound.getsockname()[1]
        local = LocalSettings(api_base=f"http://127.0.0.1:{port}/v1", max_attempts=1)
        async with service(settings_for(tmp_path, local=local)) as (_, client):
            file = await client.upload(jsonl(LINES))
            batch = await client.create(file.id)
            await says(client, batch.id, "waiting for the endpoint: it can't be reached")
            bound.listen()
            answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"

            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                writer.close()

            async with await asyncio.start_server(handle, sock=bound):
                assert (await client.ended(batch.id)).request_counts.completed == len(LINES)


@pytest.mark.parametrize("status", AWAY)
async def test_of_any_kind_uses_up_no_attempt_and_no_time_of_the_line(status: int) -> None:
    weather = Weather(status)
    async with fake_endpoint(weather) as fake, runner(fake.api_base, max_attempts=1) as run:
        line = asyncio.create_task(run(seconds=0.4))
        asked = weather.asked

        async def calls() -> int:
            return weather.asked

        await until(calls, lambda calls: calls > asked)
        weather.status = None
        outcome = await line
        assert isinstance(outcome, Answer)
        assert outcome.status_code == 200


async def test_of_a_server_behind_pauses_too_and_ends_with_the_last_answer() -> None:
    weather = Weather(502)
    async with fake_endpoint(weather) as fake, runner(fake.api_base, max_attempts=2) as run:
        outcomes = await asyncio.gather(run("a"), run("b", RESPONSES))
        assert [outcome.status_code for outcome in outcomes if isinstance(outcome, Answer)] == [502, 502]
        assert fake.calls == {"a": 2, "b": 1}


class TestAWait:
    async def test_ends_at_once_when_the_batch_is_cancelled(self, tmp_path: Path) -> None:
        async with away(tmp_path) as (weather, client, _):
            file = await client.upload(jsonl(LINES))
            batch = await client.create(file.id)
            await says(client, batch.id, "waiting")
            asked = weather.asked
            await client.stub.CancelBatch(CancelBatchRequest(batch_id=batch.id), metadata=client.metadata)
            ended = await client.ended(batch.id)
            assert (ended.status, reason(ended)) == (BatchStatus.BATCH_STATUS_CANCELLED, "")
            errors = await client.results(ended.error_file_id)
            assert [line["error"]["code"] for line in errors] == ["batch_cancelled"] * len(LINES)
            assert weather.asked <= asked + 2

    async def test_ends_with_the_batchs_window(self, tmp_path: Path) -> None:
        now = time()
        async with fake_endpoint(Weather(503)) as fake:
            local = LocalSettings(api_base=fake.api_base, max_concurrency=MOST)
            async with service(settings_for(tmp_path, local=local), clock=lambda: now) as (_, client):
                file = await client.upload(jsonl(LINES))
                batch = await client.create(file.id)
                await says(client, batch.id, "waiting")
                now += 86_401
                ended = await client.ended(batch.id)
                assert ended.status == BatchStatus.BATCH_STATUS_EXPIRED
                errors = await client.results(ended.error_file_id)
                assert [line["error"]["code"] for line in errors] == ["batch_expired"] * len(LINES)

    async def test_holds_no_stop_up_and_goes_on_after_a_start(self, tmp_path: Path) -> None:
        async with fake_endpoint(Weather(503)) as fake:
            settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, max_concurrency=MOST))
            async with service(settings) as (server, client):
                file = await client.upload(jsonl(LINES))
                batch = await client.create(file.id)
                await says(client, batch.id, "waiting")
                async with asyncio.timeout(PATIENCE / 2):
                    await server.drain(PATIENCE)
        async with fake_endpoint(Weather(None)) as fake:
            settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base, max_concurrency=MOST))
            async with service(settings) as (_, client):
                ended = await client.ended(batch.id)
                assert (ended.request_counts.completed, reason(ended)) == (len(LINES), "")


class TestARateLimit:
    async def test_lowers_what_is_in_flight_and_costs_no_line(self, tmp_path: Path) -> None:
        at_once, refused, gate = 0, 0, asyncio.Event()

        async def narrow(body: dict[str, Any], before: int) -> Response:
            nonlocal at_once, refused
            if at_once >= 2:
                refused += 1
                return failure(429)
            at_once += 1
            try:
                await gate.wait()
                return completion(body)
            finally:
                at_once -= 1

        async with fake_endpoint(narrow) as fake:
            local = LocalSettings(api_base=fake.api_base, max_concurrency=MOST, max_attempts=1)
            async with service(settings_for(tmp_path, local=local)) as (_, client):
                file = await client.upload(jsonl(chat_lines(60)))
                batch = await client.create(file.id)

                async def refusals() -> int:
                    return refused

                await until(refusals, lambda count: count >= MOST - 2)
                gate.set()
                ended = await client.ended(batch.id)
                assert (ended.request_counts.completed, ended.request_counts.failed) == (60, 0)
                assert refused < 60

    @pytest.mark.parametrize("status", [429, 503])
    async def test_of_one_line_alone_leaves_the_others_going(self, tmp_path: Path, status: int) -> None:
        async def picky(body: dict[str, Any], before: int) -> Response:
            return failure(status) if body["messages"][-1]["content"] == "never" else completion(body)

        async with fake_endpoint(picky) as fake:
            local = LocalSettings(api_base=fake.api_base, max_concurrency=1)
            async with service(settings_for(tmp_path, local=local)) as (_, client):
                file = await client.upload(jsonl([chat_line("never", "never"), *LINES]))
                batch = await client.create(file.id)
                done = await until(
                    lambda: client.get(batch.id), lambda batch: batch.request_counts.completed == len(LINES)
                )
                assert done.request_counts.failed == 0

    @pytest.mark.parametrize(
        "error",
        [
            {"message": "You exceeded your current quota", "code": "insufficient_quota"},
            {"message": "Request too large for gpt-4o: Limit 10, Requested 20", "code": "rate_limit_exceeded"},
        ],
        ids=lambda error: error["code"],
    )
    async def test_that_no_waiting_helps_is_the_answer(self, error: dict[str, Any]) -> None:
        behaviour = answering(json.dumps({"error": error}).encode(), 429)
        async with fake_endpoint(behaviour) as fake, runner(fake.api_base) as run:
            outcome = await run()
            assert isinstance(outcome, Answer)
            assert outcome.status_code == 429
            assert sum(fake.calls.values()) == 1

    async def test_stops_with_the_line(self) -> None:
        weather, control = Weather(429), Going()
        async with fake_endpoint(weather) as fake, runner(fake.api_base) as run:
            line = asyncio.create_task(run(control=control))

            async def calls() -> int:
                return weather.asked

            await until(calls, lambda calls: calls > 1)
            control.stop()
            async with asyncio.timeout(PATIENCE):
                assert await line is None
