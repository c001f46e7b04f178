"""An idempotency key makes a repeated create answer with the first batch, for a day."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from tests.harness import Client, refused, service, settings_for
from tests.statuses import told

from batchyard.v1 import ListBatchesRequest


async def listed(client: Client) -> int:
    return len((await client.stub.ListBatches(ListBatchesRequest(limit=100), metadata=client.metadata)).data)


async def test_a_repeat_gets_the_first_batch(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        first = await client.create("file-a", idempotency_key="k")
        await client.ended(first.id)
        again = await client.create("file-a", idempotency_key="k")
        assert again.id == first.id
        assert await listed(client) == 1


async def test_white_space_around_a_key_is_no_part_of_it(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        batches = [await client.create("file-a", idempotency_key=key) for key in ("k", "k ", "\tk", " k\t")]
        assert len({batch.id for batch in batches}) == 1
        assert (await client.create("file-a", idempotency_key=" \t")).id != (await client.create("file-a")).id


async def test_white_space_around_metadata_is_no_part_of_it(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        padded = tuple((name, f"{value}  ") for name, value in client.metadata)
        call = client.stub.ListBatches(ListBatchesRequest(limit=1), metadata=(*padded, ("x-request-id", " mine ")))
        assert len((await call).data) == 0
        assert dict(await call.initial_metadata() or ()).get("x-request-id", "mine") == "mine"


async def test_repeats_at_once_make_one_batch(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        batches = await asyncio.gather(*(client.create("file-a", idempotency_key="k") for _ in range(30)))
        assert len({batch.id for batch in batches}) == 1
        assert await listed(client) == 1


@pytest.mark.parametrize(
    "change", [{"endpoint": "/v1/embeddings"}, {"metadata": {"a": "b"}}], ids=["endpoint", "metadata"]
)
async def test_another_request_under_the_key_already_exists(tmp_path: Path, change: dict[str, str]) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        await client.create("file-a", idempotency_key="k")
        async with refused(grpc.StatusCode.ALREADY_EXISTS) as errors:
            await client.create("file-a", idempotency_key="k", **change)
        assert told(errors[0]).reason == "IDEMPOTENCY_KEY_REUSED"
        assert await listed(client) == 1


async def test_without_a_key_every_create_makes_a_batch(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        assert (await client.create("file-a")).id != (await client.create("file-a")).id


async def test_a_refusal_is_not_remembered(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        async with refused(grpc.StatusCode.INVALID_ARGUMENT):
            await client.create("file-a", endpoint="/v1/none", idempotency_key="k")
        assert (await client.create("file-a", idempotency_key="k")).id


async def test_a_key_is_forgotten_after_a_day(tmp_path: Path) -> None:
    skew = 0.0
    async with service(settings_for(tmp_path), clock=lambda: time.time() + skew) as (_, client):
        first = await client.create("file-a", idempotency_key="k")
        skew = 86_401.0
        assert (await client.create("file-b", idempotency_key="k")).id != first.id


async def test_a_key_survives_a_restart(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        first = await client.create("file-a", idempotency_key="k")
    async with service(settings_for(tmp_path)) as (_, client):
        assert (await client.create("file-a", idempotency_key="k")).id == first.id
