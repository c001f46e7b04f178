"""Every RPC that needs an id says which one is missing, and looks nothing up."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc import status_pb2
from grpc import StatusCode
from tests.harness import Client, refused, service, settings_for

from batchyard.admin.v1 import (
    AdoptBatchRequest,
    AdoptFileRequest,
    CreateKeyRequest,
    RevokeKeyRequest,
    RotateKeyRequest,
)
from batchyard.v1 import (
    ApiError,
    CancelBatchRequest,
    CreateBatchRequest,
    DeleteFileRequest,
    DownloadFileRequest,
    GetBatchRequest,
    GetFileRequest,
    WatchBatchRequest,
)

CREATION: dict[str, Any] = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}
CALLS = [
    ("GetBatch", GetBatchRequest(), "batch_id"),
    ("GetBatch", GetBatchRequest(provider="local", fresh=True), "batch_id"),
    ("CancelBatch", CancelBatchRequest(), "batch_id"),
    ("CancelBatch", CancelBatchRequest(provider="local"), "batch_id"),
    ("GetFile", GetFileRequest(provider="local"), "file_id"),
    ("DeleteFile", DeleteFileRequest(provider="local"), "file_id"),
    *(("CreateBatch", CreateBatchRequest(**{**CREATION, name: ""}), name) for name in CREATION),
]
STREAMS = [
    ("WatchBatch", WatchBatchRequest(), "batch_id"),
    ("WatchBatch", WatchBatchRequest(provider="local"), "batch_id"),
    ("DownloadFile", DownloadFileRequest(provider="local"), "file_id"),
]
ADMIN = [
    ("AdoptFile", AdoptFileRequest(file_id="file-1"), "provider"),
    ("AdoptFile", AdoptFileRequest(provider="local"), "file_id"),
    ("AdoptBatch", AdoptBatchRequest(batch_id="batch_1"), "provider"),
    ("AdoptBatch", AdoptBatchRequest(provider="local"), "batch_id"),
    ("CreateKey", CreateKeyRequest(name="robot"), "tenant"),
    ("CreateKey", CreateKeyRequest(tenant="team"), "name"),
    ("RotateKey", RotateKeyRequest(grace_seconds=-1), "key_id"),
    ("RevokeKey", RevokeKeyRequest(), "key_id"),
]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with service(settings_for(tmp_path)) as (_, client):
        yield client


def api_error(error: Any) -> ApiError:
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    found = ApiError()
    for detail in status_pb2.Status.FromString(packed).details:
        detail.Unpack(found)
    return found


def assert_names(error: Any, name: str) -> None:
    found = api_error(error)
    assert (found.param, found.code_json) == (name, b'"missing_required_parameter"')
    assert found.message == f"Missing required parameter: '{name}'."


async def test_calls_name_the_field_that_is_missing(client: Client) -> None:
    for stub, calls in ((client.stub, CALLS), (client.admin, ADMIN)):
        for method, request, name in calls:
            async with refused(StatusCode.INVALID_ARGUMENT) as errors:
                await getattr(stub, method)(request, metadata=client.metadata)
            assert_names(errors[0], name)


async def test_streams_name_the_field_that_is_missing(client: Client) -> None:
    for method, request, name in STREAMS:
        async with refused(StatusCode.INVALID_ARGUMENT) as errors:
            async for _ in getattr(client.stub, method)(request, metadata=client.metadata):
                pass
        assert_names(errors[0], name)
