"""What becomes of an upload whose row is refused, and what operators learn of a registry that lost a table."""

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from grpc import StatusCode
from tests.harness import Client, refused, service, settings_for

from batchyard.v1 import CreateBatchRequest


@pytest.fixture
async def broken(tmp_path: Path) -> AsyncIterator[Client]:
    """A service whose registry can't take files any more, nor remember keys."""
    async with service(settings_for(tmp_path)) as (_, client):
        with closing(sqlite3.connect(tmp_path / "data/registry.sqlite3")) as registry:
            registry.execute("DROP TABLE file_parts")
            registry.execute("DROP TABLE idempotency_keys")
        yield client


async def test_an_upload_that_can_not_be_registered_leaves_no_bytes(broken: Client, tmp_path: Path) -> None:
    for _ in range(2):
        async with refused(StatusCode.INTERNAL):
            await broken.upload(b"x" * 100_000, purpose="user_data")
    assert not [path for path in (tmp_path / "data/store").rglob("*") if path.is_file()]


async def test_a_write_that_fails_is_in_the_log_with_its_cause_and_without_what_callers_sent(
    broken: Client, caplog: pytest.LogCaptureFixture
) -> None:
    request = CreateBatchRequest(
        input_file_id="file-none",
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"label": "a caller's own"},
        idempotency_key="a caller's key",
    )
    async with refused(StatusCode.INTERNAL):
        await broken.stub.CreateBatch(request, metadata=broken.metadata)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR and record.message == "defect"]
    assert len(errors) == 1
    assert errors[0].exc_info
    assert "no such table: idempotency_keys" in caplog.text
    assert "a caller's" not in caplog.text


async def test_what_was_there_before_goes_on(broken: Client) -> None:
    batch = await broken.ended((await broken.create("file-none")).id)
    assert batch.errors.data[0].param == "file_id"
