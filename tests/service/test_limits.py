"""What a tenant may ask for in a time, in tokens and in inputs, where the configuration bounds it (facts 3.4, 3.5)."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.harness import Client, chat_line, chat_lines, jsonl, refused, service, settings_for, until
from tests.statuses import told

from batchyard.service.config.settings import Limits, LocalSettings, Settings
from batchyard.v1 import BatchStatus, ListBatchesRequest

COMPLETED, FAILED = BatchStatus.BATCH_STATUS_COMPLETED, BatchStatus.BATCH_STATUS_FAILED
BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED


class Clock:
    """Wall time that tests move."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def limited(folder: Path, **limits: Any) -> Settings:
    return settings_for(folder, limits=Limits(**limits))


async def codes(client: Client, lines: list[dict[str, Any]], endpoint: str) -> list[tuple[str, str, int | None]]:
    """Code, param and line of each error of a batch that must fail."""
    batch = await client.run(lines, endpoint)
    assert batch.status == FAILED
    return [(error.code, error.param, error.line if error.HasField("line") else None) for error in batch.errors.data]


def embeddings(custom_id: str, value: Any) -> dict[str, Any]:
    body = {"model": "m", "input": value}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body}


async def test_a_tenant_creates_so_many_batches_in_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    async with service(limited(tmp_path, max_batches_per_hour=2), clock=clock) as (_, client):
        file = await client.upload(jsonl(chat_lines(1)))
        first = await client.create(file.id, idempotency_key="first")
        clock.now += 600
        await client.create(file.id)
        async with refused(BUSY) as errors:
            await client.create(file.id)
        assert told(errors[0]).retry_after == 3000
        assert (await client.create(file.id, idempotency_key="first")).id == first.id
        listed = await client.stub.ListBatches(ListBatchesRequest(), metadata=client.metadata)
        assert len(listed.data) == 2
        clock.now += 3000
        await client.create(file.id)


async def test_a_tenant_uploads_so_many_files_in_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    async with service(limited(tmp_path, max_files_per_minute=2), clock=clock) as (_, client):
        batch = await client.run(chat_lines(1))  # its output file counts for nothing
        assert batch.output_file_id
        await client.upload(jsonl(chat_lines(1)))
        async with refused(BUSY) as errors:
            await client.upload(jsonl(chat_lines(1)))
        assert told(errors[0]).retry_after == 60
        clock.now += 60
        await client.upload(jsonl(chat_lines(1)))


async def test_uploads_that_come_together_do_not_pass_the_limit_together(tmp_path: Path) -> None:
    async with service(limited(tmp_path, max_files_per_minute=2)) as (_, client):
        sent = [client.upload(b"x", purpose="user_data") for _ in range(20)]
        ends = await asyncio.gather(*sent, return_exceptions=True)
        assert sum(not isinstance(end, BaseException) for end in ends) == 2


async def test_running_batches_of_a_model_share_its_tokens(tmp_path: Path) -> None:
    slow = LocalSettings(echo=True, echo_delay_ms=60_000)
    settings = replace(limited(tmp_path, max_enqueued_tokens=100), local=slow)
    async with service(settings) as (_, client):
        file = await client.upload(jsonl([chat_line("a", "x" * 200)]))
        first = await client.create(file.id)
        await until(lambda: client.get(first.id), lambda b: b.status == BatchStatus.BATCH_STATUS_IN_PROGRESS)
        second = await client.ended((await client.create(file.id)).id)
        (error,) = second.errors.data
        assert (second.status, error.code) == (FAILED, "token_limit_exceeded")
        assert error.message == (
            "Enqueued token limit reached for test-model in organization default. Limit: 100 enqueued tokens. "
            "Please try again once some in_progress batches have been completed."
        )
        other = await client.upload(jsonl([chat_line("a", "x" * 200, model="other")]))
        third = await client.create(other.id)
        await until(lambda: client.get(third.id), lambda b: b.status == BatchStatus.BATCH_STATUS_IN_PROGRESS)


async def test_tokens_come_back_when_a_batch_ends(tmp_path: Path) -> None:
    async with service(limited(tmp_path, max_enqueued_tokens=100)) as (_, client):
        lines = [chat_line("a", "x" * 200)]
        assert [(await client.run(lines)).status for _ in range(3)] == [COMPLETED] * 3


async def test_batches_that_come_together_do_not_pass_the_tokens_together(tmp_path: Path) -> None:
    slow = LocalSettings(echo=True, echo_delay_ms=60_000)
    async with service(replace(limited(tmp_path, max_enqueued_tokens=100), local=slow)) as (_, client):
        file = await client.upload(jsonl([chat_line("a", "x" * 200)]))
        made = await asyncio.gather(*(client.create(file.id) for _ in range(5)))

        async def states() -> list[int]:
            return sorted([(await client.get(batch.id)).status for batch in made])

        expected = sorted([BatchStatus.BATCH_STATUS_IN_PROGRESS, *[FAILED] * 4])
        assert await until(states, lambda seen: BatchStatus.BATCH_STATUS_VALIDATING not in seen) == expected


async def test_running_embeddings_batches_share_their_requests(tmp_path: Path) -> None:
    slow = LocalSettings(echo=True, echo_delay_ms=60_000)
    async with service(replace(limited(tmp_path, max_enqueued_embeddings=3), local=slow)) as (_, client):
        file = await client.upload(jsonl([embeddings("a", "one"), embeddings("b", "two")]))
        first = await client.create(file.id, "/v1/embeddings")
        await until(lambda: client.get(first.id), lambda b: b.status == BatchStatus.BATCH_STATUS_IN_PROGRESS)
        second = await client.ended((await client.create(file.id, "/v1/embeddings")).id)
        (error,) = second.errors.data
        assert (second.status, error.code) == (FAILED, "request_limit_exceeded")
        assert error.message.startswith(
            "Enqueued request limit reached for /v1/embeddings in organization default. Limit: 3 enqueued requests."
        )
        chats = await client.upload(jsonl([chat_line(str(number)) for number in range(4)]))
        third = await client.create(chats.id)
        await until(lambda: client.get(third.id), lambda b: b.status == BatchStatus.BATCH_STATUS_IN_PROGRESS)


@pytest.mark.parametrize(
    ("inputs", "fits"),
    [
        (["one", ["two", "three"]], True),
        ([["one", "two"], ["three", "four"]], False),
        ([[1, 2, 3, 4, 5], [6, 7, 8, 9]], True),
        ([[[1, 2], [3]], [[4], [5]]], False),
        ([[], [], []], True),
    ],
)
async def test_embedding_inputs_are_counted_one_by_one(tmp_path: Path, inputs: list[Any], fits: bool) -> None:
    lines = [embeddings(str(number), value) for number, value in enumerate(inputs)]
    async with service(limited(tmp_path, max_embedding_inputs=3)) as (_, client):
        if fits:
            assert (await client.run(lines, "/v1/embeddings")).status == COMPLETED
        else:
            assert await codes(client, lines, "/v1/embeddings") == [("too_many_tasks", "", None)]


async def test_a_model_that_is_not_offered_fails_its_lines(tmp_path: Path) -> None:
    local = LocalSettings(echo=True, models=("test-model", "second"))
    lines = [chat_line("a", model="first"), chat_line("b"), chat_line("c", model="first")]
    async with service(settings_for(tmp_path, local=local)) as (_, client):
        batch = await client.run(lines)
        found = [(error.code, error.line, error.message) for error in batch.errors.data if error.param == "body.model"]
        text = "The provided model 'first' is not supported by the Batch API."
        assert found[0] == ("model_not_found", 1, text)
        assert (await client.run([chat_line("a")])).status == COMPLETED
