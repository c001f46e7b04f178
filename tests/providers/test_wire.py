"""What a provider sends reaches REST callers as it was: known members, new ones, and new words for statuses."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.eventsource import EventSource
from tests.rest.conftest import ENDED_WORDS
from tests.upstream.faults import Answer
from tests.upstream.quirks import Quirks

from batchyard.v1 import BatchStatus, GetFileRequest, WatchBatchRequest

from .scene import CREATE, INPUT, UPLOAD, Scene, scene

STAMPS = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
UNSET = dict.fromkeys(STAMPS)
NO_COUNTS = {"total": 0, "completed": 0, "failed": 0}
USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}
WRONG_URL = "The URL provided for this request does not match the batch endpoint."
FILES: dict[str, dict[str, Any]] = {
    "facts 1.6": {
        "object": "file", "id": "file-52voFe6FU6MWyAwa1Uj39R", "purpose": "batch", "filename": "in.jsonl",
        "bytes": 170, "created_at": 1787176071, "expires_at": 1789768071, "status": "processed",
        "status_details": None,
    },
    "before expiry": {
        "object": "file", "id": "file-JdhoBwvPwGcb5DVvZTkKwq", "purpose": "user_data", "filename": "a.pdf",
        "bytes": 0, "created_at": 1743825229, "expires_at": None, "status": "error", "status_details": "Broken.",
    },
}  # fmt: skip
AZURE_FILE = {
    "status": "processed", "bytes": 817, "purpose": "batch", "filename": "test.jsonl", "expires_at": 1744607747,
    "id": "file-7733bc35e32841e297a62a9ee50b3461", "created_at": 1743398147, "object": "file",
}  # fmt: skip
CREATED: dict[str, Any] = {
    "id": "batch_67f0a94dd3f88190aa0851cd92539a09", "object": "batch", "endpoint": "/v1/responses", "model": None,
    "errors": None, "completion_window": "24h", "status": "validating", "output_file_id": None,
    "error_file_id": None, "created_at": 1743825229, "expires_at": 1743911629, "request_counts": NO_COUNTS,
    "usage": USAGE, "metadata": None, **UNSET,
}  # fmt: skip
BATCHES: dict[str, dict[str, Any]] = {
    "just created": CREATED,
    "without usage": {name: value for name, value in CREATED.items() if name not in {"model", "usage"}},
    "failed": {
        **CREATED, "status": "failed", "failed_at": 1743825230,
        "errors": {"object": "list", "data": [
            {"code": "invalid_url", "message": WRONG_URL, "param": "url", "line": line} for line in (1, 2)
        ]},
    },
    "running": {
        **CREATED, "status": "in_progress", "in_progress_at": 1743825230, "model": "gpt-5.4-pro-2026-03-05",
        "request_counts": {"total": 2, "completed": 1, "failed": 1}, "metadata": {"a": "b"},
        "usage": {**USAGE, "input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    },
}  # fmt: skip
AZURE_CREATED = {
    **{name: value for name, value in CREATED.items() if name not in {"model", "usage"}},
    "id": "batch_f3c1d5a4-7e1b-4b0e-9d1c-0123456789ab", "endpoint": "/responses", "status": "Validating",
    "created_at": "2025-04-05T03:53:49Z", "expires_at": "2025-04-06T03:53:49+00:00", "request_counts": None,
    "output_file_id": "", "error_file_id": "",
}  # fmt: skip


async def played(found: Scene, raw: dict[str, Any]) -> dict[str, Any]:
    """What REST makes of a batch that the deployment answers with."""
    file_id = await found.input()
    found.fake.fault(Answer(200, {**raw, "input_file_id": file_id}), where=CREATE)
    answer = await found.post(file_id)
    assert answer.status_code == 200, answer.text
    got = dict(answer.json())
    assert got.pop("input_file_id") == file_id
    return got


def on_members_of(example: dict[str, Any], got: dict[str, Any]) -> dict[str, Any]:
    return {name: got.get(name, "missing") for name in example}


class TestAnExample:
    @pytest.mark.parametrize("example", FILES.values(), ids=FILES)
    async def test_of_a_file_comes_through(self, tmp_path: Path, example: dict[str, Any]) -> None:
        async with scene(tmp_path) as found:
            found.fake.fault(Answer(200, example), where=UPLOAD)
            answer = await found.door.rest.post(
                "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", INPUT)}
            )
            listed = (await found.door.rest.get("/v1/files")).json()["data"]
            assert answer.json() == example
            assert listed == [example]
            if example["status"] == "processed":
                assert (await found.door.rest.get(f"/v1/files/{example['id']}")).json() == example

    @pytest.mark.parametrize("example", BATCHES.values(), ids=BATCHES)
    async def test_of_a_batch_comes_through(self, tmp_path: Path, example: dict[str, Any]) -> None:
        async with scene(tmp_path, openai_poll_seconds=60) as found:
            assert on_members_of(example, await played(found, example)) == example
            (listed,) = await found.listed()
            assert on_members_of(example, listed) == example

    async def test_of_a_file_of_azures_comes_through(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as found:
            found.fake.fault(Answer(201, AZURE_FILE), where=UPLOAD)
            answer = await found.door.rest.post(
                "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", INPUT)}
            )
            assert answer.json() == {**AZURE_FILE, "status_details": None}

    async def test_of_a_batch_of_azures_is_like_openais(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", azure_poll_seconds=60) as found:
            expected = {**BATCHES["without usage"], "id": AZURE_CREATED["id"]}
            assert on_members_of(expected, await played(found, AZURE_CREATED)) == expected


class TestTomorrow:
    @pytest.mark.parametrize("provider", ["openai", "azure"])
    async def test_has_members_that_we_do_not_know(self, tmp_path: Path, provider: Any) -> None:
        new = {"service_tier": "batch", "nested": {"a": [1, None]}}
        async with scene(tmp_path, provider, Quirks(extra_members=True, no_usage=False)) as found:
            file = await found.door.upload(INPUT)
            batch = await found.door.ended((await found.door.create(file["id"]))["id"])
            assert new.items() <= file.items()
            assert new.items() <= batch.items()
            assert new.items() <= batch["usage"].items()
            client = found.door.grpc
            told = await client.stub.GetFile(GetFileRequest(file_id=file["id"]), metadata=client.metadata)
            assert json.loads(told.file.extra_json) == new
            seen = await client.get(batch["id"])
            assert json.loads(seen.extra_json) == new
            assert json.loads(seen.usage.extra_json) == new

    async def test_has_members_of_errors_that_we_do_not_know(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=Quirks(extra_members=True)) as found:
            file_id = await found.input()
            batch = await found.door.ended((await found.door.create(file_id, endpoint="/v1/responses"))["id"])
            assert all(error["nested"] == {"a": [1, None]} for error in batch["errors"]["data"])

    async def test_has_statuses_that_we_do_not_know(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=Quirks(unknown_status=True, auto=False)) as found:
            client = found.door.grpc
            batch_id = (await found.door.create(await found.input()))["id"]
            watch = client.stub.WatchBatch(WatchBatchRequest(batch_id=batch_id), metadata=client.metadata)
            over_rest = asyncio.create_task(self._words(found, batch_id))
            words, seen = [], []
            async for message in watch:
                words.append(message.batch.provider_status)
                seen.append(message.batch.status)
                if message.batch.provider_status == "paused":
                    assert (await found.door.rest.get(f"/v1/batches/{batch_id}")).json()["status"] == "paused"
                    assert message.batch.status == BatchStatus.BATCH_STATUS_UNSPECIFIED
                found.fake.step(batch_id)
            assert "paused" in words
            assert seen[-1] == BatchStatus.BATCH_STATUS_COMPLETED
            assert (await over_rest)[-1] in ENDED_WORDS

    async def _words(self, found: Scene, batch_id: str) -> list[str]:
        """The statuses that a stream of events has, to its end."""
        stream = EventSource(found.door.rest, f"/v1/batches/{batch_id}/events")
        return [event.json()["status"] async for event in stream.connect() if event.name == "batch"]
