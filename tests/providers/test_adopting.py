"""Ids from before Batchyard: the master key reaches them by their provider's route, and may give them to a tenant."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from tests.deployments import at_deployment
from tests.harness import ENDED, KEY, Client, chat_lines, jsonl, plain_client, refused, service, settings_for, until
from tests.statuses import told
from tests.upstream.openai import FakeOpenAI, fake_openai

from batchyard.admin.v1 import AdminServiceStub, AdoptBatchRequest, AdoptFileRequest
from batchyard.v1 import (
    BatchStatus,
    CancelBatchRequest,
    DeleteFileRequest,
    DownloadFileRequest,
    GetBatchRequest,
    GetFileRequest,
    ListBatchesRequest,
    ListFilesRequest,
)

INPUT = jsonl(chat_lines(2))


class Door(NamedTuple):
    """A service with one deployment, and what was there before it."""

    client: Client
    admin: Any
    fake: FakeOpenAI
    file_id: str
    batch_id: str

    async def files(self) -> list[str]:
        listed = await self.client.stub.ListFiles(ListFilesRequest(), metadata=self.client.metadata)
        return [file.id for file in listed.data]

    async def batches(self) -> list[str]:
        listed = await self.client.stub.ListBatches(ListBatchesRequest(), metadata=self.client.metadata)
        return [batch.id for batch in listed.data]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with fake_openai() as fake:
        settings = settings_for(tmp_path, **at_deployment("openai", fake))
        async with (
            service(settings) as (server, client),
            grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        ):
            file_id = fake.add_file(INPUT)
            yield Door(client, AdminServiceStub(channel), fake, file_id, await created_elsewhere(fake, file_id))


async def created_elsewhere(fake: FakeOpenAI, file_id: str) -> str:
    """A batch that somebody made at the provider itself."""
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with plain_client(headers={"authorization": f"Bearer {fake.key}"}) as client:
        answer = await client.post(f"{fake.api_base}/batches", json={**body, "metadata": {"team": "a"}})
        return str(answer.json()["id"])


async def test_what_is_only_at_the_provider_is_reached_by_its_route_and_not_listed(door: Door) -> None:
    stub, key = door.client.stub, door.client.metadata
    async with refused(grpc.StatusCode.NOT_FOUND):
        await stub.GetFile(GetFileRequest(file_id=door.file_id), metadata=key)
    file = (await stub.GetFile(GetFileRequest(file_id=door.file_id, provider="openai"), metadata=key)).file
    assert (file.id, file.bytes, file.provider) == (door.file_id, len(INPUT), "openai")
    request = DownloadFileRequest(file_id=door.file_id, provider="openai")
    assert b"".join([message.data async for message in stub.DownloadFile(request, metadata=key)]) == INPUT
    assert door.file_id not in await door.files()
    await stub.DeleteFile(DeleteFileRequest(file_id=door.file_id, provider="openai"), metadata=key)
    assert door.fake.files[door.file_id].deleted


async def test_a_batch_from_before_is_read_and_cancelled_by_its_route(door: Door) -> None:
    stub, key = door.client.stub, door.client.metadata
    async with refused(grpc.StatusCode.NOT_FOUND):
        await stub.GetBatch(GetBatchRequest(batch_id=door.batch_id), metadata=key)
    batch = (await stub.GetBatch(GetBatchRequest(batch_id=door.batch_id, provider="openai"), metadata=key)).batch
    assert (batch.id, dict(batch.metadata), batch.provider) == (door.batch_id, {"team": "a"}, "openai")
    assert await door.batches() == []
    request = CancelBatchRequest(batch_id=door.batch_id, provider="openai")
    cancelled = (await stub.CancelBatch(request, metadata=key)).batch
    assert cancelled.status in {BatchStatus.BATCH_STATUS_CANCELLING, BatchStatus.BATCH_STATUS_CANCELLED}


async def test_an_adopted_file_is_the_tenants_like_any_other(door: Door) -> None:
    request = AdoptFileRequest(provider="openai", file_id=door.file_id)
    for _ in range(2):  # again is fine
        adopted = (await door.admin.AdoptFile(request, metadata=door.client.metadata)).file
        assert (adopted.id, adopted.bytes) == (door.file_id, len(INPUT))
    assert await door.files() == [door.file_id]
    assert await door.client.read(door.file_id) == INPUT
    batch = await door.client.ended((await door.client.create(door.file_id)).id)
    assert batch.status == BatchStatus.BATCH_STATUS_COMPLETED


async def test_an_adopted_batch_comes_with_its_results_and_is_followed(door: Door) -> None:
    request = AdoptBatchRequest(provider="openai", batch_id=door.batch_id)
    adopted = (await door.admin.AdoptBatch(request, metadata=door.client.metadata)).batch
    assert (adopted.id, dict(adopted.metadata)) == (door.batch_id, {"team": "a"})
    followed = await until(lambda: door.client.get(door.batch_id), lambda batch: batch.status in ENDED)
    assert followed.status == BatchStatus.BATCH_STATUS_COMPLETED
    assert len(await door.client.results(followed.output_file_id)) == 2
    assert followed.output_file_id in await door.files()


async def test_an_adopted_batch_that_has_ended_is_whole_at_once(door: Door) -> None:
    door.fake.run(door.batch_id)
    request = AdoptBatchRequest(provider="openai", batch_id=door.batch_id)
    adopted = (await door.admin.AdoptBatch(request, metadata=door.client.metadata)).batch
    assert adopted.status == BatchStatus.BATCH_STATUS_COMPLETED
    assert len(await door.client.results(adopted.output_file_id)) == 2


async def test_what_is_another_tenants_stays_theirs(door: Door) -> None:
    theirs = AdoptFileRequest(provider="openai", file_id=door.file_id, tenant="team-b")
    await door.admin.AdoptFile(theirs, metadata=door.client.metadata)
    async with refused(grpc.StatusCode.ALREADY_EXISTS) as found:
        ours = AdoptFileRequest(provider="openai", file_id=door.file_id)
        await door.admin.AdoptFile(ours, metadata=door.client.metadata)
    assert told(found[0]).reason == "OWNED"
    assert await door.files() == []
    async with refused(grpc.StatusCode.NOT_FOUND):
        await door.client.read(door.file_id)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"file_id": "file-none"}, grpc.StatusCode.NOT_FOUND, "id"),
        ({"file_id": ".."}, grpc.StatusCode.NOT_FOUND, "id"),
        ({"file_id": "a/b"}, grpc.StatusCode.NOT_FOUND, "id"),
        ({"provider": ""}, grpc.StatusCode.INVALID_ARGUMENT, "provider"),
        ({"provider": "moon"}, grpc.StatusCode.INVALID_ARGUMENT, "provider"),
        ({"tenant": "no spaces"}, grpc.StatusCode.INVALID_ARGUMENT, "tenant"),
    ],
)
async def test_what_can_not_be_adopted_is_refused(
    door: Door, fields: dict[str, str], code: grpc.StatusCode, param: str
) -> None:
    async with refused(code) as found:
        request = AdoptFileRequest(**{"provider": "openai", "file_id": door.file_id, **fields})
        await door.admin.AdoptFile(request, metadata=door.client.metadata)
    assert told(found[0]).param == param


async def test_a_wrong_key_adopts_nothing(door: Door) -> None:
    assert KEY != "sk-wrong"
    async with refused(grpc.StatusCode.UNAUTHENTICATED):
        await door.admin.AdoptFile(AdoptFileRequest(), metadata=(("authorization", "Bearer sk-wrong"),))
