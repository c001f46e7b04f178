"""Azure's batches over blobs: only below URLs that are allowed, since they are read with the resource's identity."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from tests.deployments import QUICK, at_deployment
from tests.harness import Client, chat_lines, jsonl, refused, service, settings_for
from tests.statuses import told
from tests.upstream.azure import FakeAzure, fake_azure
from tests.upstream.faults import Answer, to
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks

from batchyard.v1 import Batch, BatchStatus, CreateBatchRequest, OutputFolder

PREFIX = "https://account.blob.core.windows.net/batches/"
BLOB, FOLDER = PREFIX + "in/a.jsonl", PREFIX + "out"


@pytest.fixture
async def fake() -> AsyncIterator[FakeAzure]:
    async with fake_azure(Quirks(pending_reads=0)) as fake:
        stored = fake.files[fake.add_file(jsonl(chat_lines(2)))]
        fake.files[BLOB] = stored
        yield fake


@pytest.fixture
async def client(fake: FakeAzure, tmp_path: Path) -> AsyncIterator[Client]:
    upstream = replace(QUICK, azure_blob_prefixes=(PREFIX,))
    async with service(settings_for(tmp_path, **at_deployment("azure", fake, upstream=upstream))) as (_, client):
        yield client


async def create(client: Client, **fields: Any) -> Batch:
    known: dict[str, Any] = {"input_blob": BLOB, "output_folder": OutputFolder(url=FOLDER)}
    known |= {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    request = CreateBatchRequest(**(known | fields))
    return (await client.stub.CreateBatch(request, metadata=client.metadata)).batch


async def test_a_blob_below_an_allowed_prefix_is_run(client: Client, fake: FakeAzure) -> None:
    batch = await create(client)
    assert b'"input_blob":' in batch.extra_json.replace(b" ", b"")
    ended = await client.ended(batch.id)
    assert ended.status == BatchStatus.BATCH_STATUS_COMPLETED
    assert f"{FOLDER}/{batch.id}/results.jsonl".encode() in ended.extra_json
    (sent,) = [seen.body for seen in fake.requests if seen.method == "POST"]
    assert sent["input_blob"] == BLOB
    assert sent["output_folder"] == {"url": FOLDER}
    assert {"input_file_id", "metadata"}.isdisjoint(sent)


async def test_a_lost_answer_is_found_by_its_blob(client: Client, fake: FakeAzure) -> None:
    fake.fault(Answer(500, acts=True), where=to("POST", "/batches"))
    batch = await create(client)
    assert list(fake.batches) == [batch.id]


@pytest.mark.parametrize(
    "url",
    [
        "https://account.blob.core.windows.net/other/a.jsonl",
        "https://account.blob.core.windows.net/batches/../other/a.jsonl",
        "https://account.blob.core.windows.net/batches/%2e%2e/other/a.jsonl",
        "https://account.blob.core.windows.net/batches@evil.example/a.jsonl",
        "https://account.blob.core.windows.net.evil.example/batches/a.jsonl",
        "http://account.blob.core.windows.net/batches/a.jsonl",
        PREFIX + "a.jsonl?sig=secret",
        PREFIX + "a.jsonl#x",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("member", ["input_blob", "output_folder.url"])
async def test_another_url_is_refused_before_anything_is_asked(
    client: Client, fake: FakeAzure, member: str, url: str
) -> None:
    fields = {"input_blob": url} if member == "input_blob" else {"output_folder": OutputFolder(url=url)}
    async with refused(StatusCode.INVALID_ARGUMENT) as found:
        await create(client, **fields)
    assert told(found[0]).param == member
    assert not fake.requests


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_file_id": "file-a"}, "input_file_id"),
        ({"metadata": {"k": "v"}}, "metadata"),
        ({"output_folder": OutputFolder()}, "output_folder.url"),
        ({"input_blob": ""}, "output_folder"),
    ],
)
async def test_what_does_not_go_with_a_blob_is_refused(client: Client, fields: dict[str, Any], param: str) -> None:
    async with refused(StatusCode.INVALID_ARGUMENT) as found:
        await create(client, **fields)
    assert told(found[0]).param == param


async def test_without_a_prefix_no_blob_is_read(fake: FakeAzure, tmp_path: Path) -> None:
    async with service(settings_for(tmp_path, **at_deployment("azure", fake))) as (_, client):
        async with refused(StatusCode.INVALID_ARGUMENT) as found:
            await create(client)
        assert told(found[0]).param == "input_blob"
        assert not fake.requests


async def test_other_providers_know_no_blobs(tmp_path: Path) -> None:
    async with (
        fake_openai() as fake,
        service(settings_for(tmp_path / "a", **at_deployment("openai", fake))) as (_, there),
        service(settings_for(tmp_path / "b")) as (_, here),
    ):
        for client in (there, here):
            async with refused(StatusCode.INVALID_ARGUMENT) as found:
                await create(client)
            assert (told(found[0]).param, told(found[0]).code) == ("input_blob", "unknown_parameter")
        assert not fake.requests
