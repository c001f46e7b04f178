"""A gRPC client that is not ours, and knows the contract only by reflection."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.harness import KEY
from tests.tools import tool

from .conftest import Served, ran

pytestmark = pytest.mark.once

SERVICE = "batchyard.v1.BatchService"


@pytest.fixture
def buf() -> Path:
    return tool(".venv-protos/bin/buf")


async def call(buf: Path, served: Served, method: str, request: dict[str, Any], key: str = KEY) -> tuple[int, str, str]:
    headers = ("-H", f"authorization: Bearer {key}") if key else ()
    url = f"{served.grpc}/{SERVICE}/{method}"
    code, out, err = await ran(buf, "curl", "--protocol", "grpc", *headers, "-d", json.dumps(request), url)
    assert code is not None
    return code, out, err


async def test_the_services_are_listed(buf: Path, served: Served) -> None:
    code, out, err = await ran(buf, "curl", "--protocol", "grpc", "--list-services", served.grpc)
    assert code == 0, err
    assert {SERVICE, "grpc.health.v1.Health"} <= set(out.split())


async def test_batches_are_created_and_listed(buf: Path, served: Served) -> None:
    request = {"inputFileId": "file-missing", "endpoint": "/v1/chat/completions", "completionWindow": "24h"}
    code, out, err = await call(buf, served, "CreateBatch", request)
    assert code == 0, err
    created = json.loads(out)["batch"]
    assert (created["inputFileId"], created["status"]) == ("file-missing", "BATCH_STATUS_VALIDATING")
    code, out, err = await call(buf, served, "ListBatches", {})
    assert code == 0, err
    assert [batch["id"] for batch in json.loads(out)["data"]] == [created["id"]]


@pytest.mark.parametrize("key", ["", "sk-wrong"])
async def test_without_the_key_a_call_is_unauthenticated(buf: Path, served: Served, key: str) -> None:
    code, out, err = await call(buf, served, "ListBatches", {}, key)
    assert (code != 0, out) == (True, "")
    assert json.loads(err)["code"] == "unauthenticated"
