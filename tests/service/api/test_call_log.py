"""What a call's line in the log names."""

import logging
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from tests.harness import chat_lines, jsonl, refused, service, settings_for
from tests.service.api.test_call_interceptor import calls_in

from batchyard.admin.v1 import RevokeKeyRequest
from batchyard.v1 import CancelBatchRequest, DeleteFileRequest, GetFileRequest, WatchBatchRequest


async def test_the_line_names_what_each_call_is_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with service(settings_for(tmp_path)) as (_, client):
        file = await client.upload(jsonl(chat_lines(1)))
        batch = await client.create(file.id)
        call: Any = {"metadata": client.metadata}
        async for _ in client.stub.WatchBatch(WatchBatchRequest(batch_id=batch.id), **call):
            pass
        await client.read(file.id)
        await client.stub.GetFile(GetFileRequest(file_id=file.id), **call)
        await client.stub.DeleteFile(DeleteFileRequest(file_id=file.id), **call)
        async with refused(StatusCode.FAILED_PRECONDITION):
            await client.stub.CancelBatch(CancelBatchRequest(batch_id=batch.id), **call)
        key_id, _ = await client.new_key("team-a")
        await client.admin.RevokeKey(RevokeKeyRequest(key_id=key_id), **call)
        async with refused(StatusCode.NOT_FOUND):
            await client.get("sk-not-an-id")
        records = await calls_in(caplog, 10)
    ids = [
        (line["method"], {name: line[name] for name in ("file", "batch", "named_key") if name in line})
        for line in map(vars, records)
    ]
    assert sorted(ids) == [
        ("CancelBatch", {"batch": batch.id}),
        ("CreateBatch", {"file": file.id, "batch": batch.id}),
        ("CreateKey", {"named_key": key_id}),
        ("DeleteFile", {"file": file.id}),
        ("DownloadFile", {"file": file.id}),
        ("GetBatch", {"batch": "(not an id)"}),
        ("GetFile", {"file": file.id}),
        ("RevokeKey", {"named_key": key_id}),
        ("UploadFile", {"file": file.id}),
        ("WatchBatch", {"batch": batch.id}),
    ]
