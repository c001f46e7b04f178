"""What the service counts is what was done, and nothing that a caller chooses becomes a label."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from starlette.responses import Response
from tests.deployments import at_deployment
from tests.fakes import Gate, completion, failure, fake_endpoint
from tests.harness import Client, chat_line, chat_lines, jsonl, refused, service, settings_for, until, upload_messages
from tests.scrapes import Scrape, scrape
from tests.upstream.faults import Answer
from tests.upstream.openai import fake_openai

from batchyard.admin.v1 import AdminServiceStub, CheckHealthRequest
from batchyard.common.metrics import Metrics
from batchyard.service.config.settings import LocalSettings, RetentionSettings
from batchyard.v1 import CancelBatchRequest, UploadFileMetadata, UploadFileRequest

RPCS = "batchyard_rpc_duration_seconds_count"
LINES = "batchyard_lines_total"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(tmp_path: Path, metrics: Metrics) -> AsyncIterator[Client]:
    async with service(settings_for(tmp_path), metrics) as (_, client):
        yield client


@asynccontextmanager
async def over(folder: Path, metrics: Metrics, behaviour: Any, **local: Any) -> AsyncIterator[Client]:
    """A client of a service whose endpoint behaves so."""
    async with fake_endpoint(behaviour) as endpoint:
        settings = settings_for(folder, local=LocalSettings(api_base=endpoint.api_base, **local))
        async with service(settings, metrics) as (_, client):
            yield client


async def found(metrics: Metrics, name: str, least: float = 1, **labels: str) -> Scrape:
    """A scrape in which a figure has come: a call is entered just after its client has the answer."""
    return await until(lambda: scrape(metrics), lambda seen: seen(name, **labels) >= least)


class TestCalls:
    async def test_are_counted_by_method_and_code(self, client: Client, metrics: Metrics) -> None:
        batch = await client.create("file-none")
        for _ in range(3):
            await client.get(batch.id)
        async with refused(grpc.StatusCode.NOT_FOUND):
            await client.get("batch_none")
        seen = await found(metrics, RPCS, method="GetBatch", code="NOT_FOUND")
        assert seen(RPCS, method="GetBatch", code="OK") == 3
        assert seen(RPCS, method="GetBatch", code="NOT_FOUND") == 1
        assert seen(RPCS, method="CreateBatch", code="OK") == 1
        assert seen("batchyard_registry_commit_duration_seconds_count") > 0

    async def test_are_counted_while_they_run(self, client: Client, metrics: Metrics) -> None:
        metadata = UploadFileRequest(metadata=UploadFileMetadata(purpose="batch", filename="a.jsonl"))
        upload = client.stub.UploadFile(metadata=client.metadata)
        await upload.write(metadata)
        await found(metrics, "batchyard_rpcs_running", method="UploadFile")
        upload.cancel()
        await until(lambda: scrape(metrics), lambda seen: seen("batchyard_rpcs_running", method="UploadFile") == 0)

    async def test_that_nobody_offers_share_a_label(self, tmp_path: Path, metrics: Metrics) -> None:
        async with (
            service(settings_for(tmp_path), metrics) as (server, client),
            grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        ):
            for number in range(100):
                call: Any = channel.unary_unary(f"/batchyard.v1.BatchService/Method{number}")
                async with refused(grpc.StatusCode.UNAUTHENTICATED):
                    await call(b"")
                async with refused(grpc.StatusCode.NOT_FOUND):
                    await client.get(f"batch_{number}")
            seen = await found(metrics, RPCS, 100, method="GetBatch", code="NOT_FOUND")
        assert seen(RPCS, method="-", code="UNAUTHENTICATED") == 100
        assert seen.series(RPCS) == 2


class TestBytes:
    async def test_of_uploads_and_downloads_are_counted(self, client: Client, metrics: Metrics) -> None:
        data = jsonl(chat_lines(50))
        file = await client.upload(data)
        assert await client.read(file.id) == data
        assert await client.read(file.id, 10, 100) == data[10:110]
        seen = await found(metrics, "batchyard_download_bytes_total", len(data) + 100)
        assert seen("batchyard_upload_bytes_total") == len(data)
        assert seen("batchyard_download_bytes_total") == len(data) + 100
        assert seen("batchyard_store_bytes") == len(data)
        assert seen("batchyard_store_free_bytes") > 0

    async def test_of_an_upload_that_fails_are_counted_too(self, client: Client, metrics: Metrics) -> None:
        messages = list(upload_messages(b"x" * 1000, UploadFileMetadata(purpose="user_data", filename="a")))[:-1]
        async with refused(grpc.StatusCode.INVALID_ARGUMENT):
            await client.stub.UploadFile(iter(messages), metadata=client.metadata)
        assert (await scrape(metrics))("batchyard_upload_bytes_total") == 1000


class TestLines:
    async def test_are_counted_by_outcome(self, client: Client, metrics: Metrics) -> None:
        await client.run([*chat_lines(3), chat_line("bad", messages="none")])
        seen = await scrape(metrics)
        outcomes = ("completed", "failed", "not_run")
        assert [seen(LINES, provider="local", outcome=outcome) for outcome in outcomes] == [3, 1, 0]
        assert [seen(LINES, provider="groups", outcome=outcome) for outcome in outcomes] == [0, 0, 0]
        assert seen("batchyard_batches", status="completed") == 1
        assert seen("batchyard_lines_running") == 0

    async def test_in_flight_and_not_run_are_counted(self, tmp_path: Path, metrics: Metrics) -> None:
        gate = Gate()

        async def held(body: dict[str, Any], _: int) -> Response:
            await gate.passed()
            return completion(body)

        async with over(tmp_path, metrics, held, max_concurrency=2, max_active_batches=1) as client:
            file = await client.upload(jsonl(chat_lines(5)))
            runs = await client.create(file.id)
            seen = await found(metrics, "batchyard_lines_running", 2)
            assert (seen("batchyard_lines_running"), seen("batchyard_line_slots")) == (2, 2)
            assert seen("batchyard_batches_in_progress", provider="local") == 1
            waits = await client.create(file.id)
            await client.stub.CancelBatch(CancelBatchRequest(batch_id=waits.id), metadata=client.metadata)
            await client.ended(waits.id)
            gate.open()
            await client.ended(runs.id)
            seen = await scrape(metrics)
        outcomes = ("completed", "failed", "not_run")
        assert [seen(LINES, provider="local", outcome=outcome) for outcome in outcomes] == [5, 0, 5]
        assert [seen("batchyard_batches", status=status) for status in ("completed", "cancelled")] == [1, 1]


class TestTheQueue:
    async def test_is_as_old_as_the_oldest_batch_that_waits(self, tmp_path: Path, metrics: Metrics) -> None:
        now = 1_800_000_000.0
        local = LocalSettings(echo=True, echo_delay_ms=60_000, max_active_batches=1)
        async with service(settings_for(tmp_path, local=local), metrics, clock=lambda: now) as (_, client):
            assert (await scrape(metrics))("batchyard_queue_age_seconds") == 0
            file = await client.upload(jsonl(chat_lines(1)))
            await client.create(file.id)
            await found(metrics, "batchyard_batches", status="in_progress")
            await client.create(file.id)
            now += 90
            seen = await found(metrics, "batchyard_batches", status="validating")
            assert seen("batchyard_queue_age_seconds") == 90


class TestUpstream:
    async def test_errors_and_repeats_are_counted_by_kind(self, tmp_path: Path, metrics: Metrics) -> None:
        async def unwilling(body: dict[str, Any], before: int) -> Response:
            if body["messages"][-1]["content"] == "never":
                return failure(400)
            return [failure(429, headers={"retry-after-ms": "1"}), failure(500), completion(body)][before]

        async with over(tmp_path, metrics, unwilling) as client:
            await client.run([chat_line("a", "later"), chat_line("b", "never")])
            seen = await scrape(metrics)
        errors = {kind: seen("batchyard_upstream_errors_total", kind=kind) for kind in ("rate_limited", "server_error")}
        repeats = {kind: seen("batchyard_upstream_retries_total", kind=kind) for kind in errors}
        assert errors == repeats == {"rate_limited": 1, "server_error": 1}
        assert seen("batchyard_upstream_errors_total", kind="client_error") == 1
        assert seen.series("batchyard_upstream_retries_total") == 2
        calls = {"2xx": 1, "4xx": 2, "5xx": 1}
        name = "batchyard_upstream_duration_seconds_count"
        assert {s: seen(name, endpoint="/v1/chat/completions", status=s) for s in calls} == calls

    async def test_an_endpoint_that_is_not_there_or_too_slow_has_its_kind(
        self, tmp_path: Path, metrics: Metrics
    ) -> None:
        async def silent(body: dict[str, Any], _: int) -> Response:
            await asyncio.Event().wait()
            raise AssertionError

        async with over(tmp_path / "a", metrics, silent, line_timeout_seconds=0.2) as client:
            await client.run(chat_lines(1))
            seen = await scrape(metrics)
        assert seen("batchyard_upstream_errors_total", kind="timeout") == 1
        name = "batchyard_upstream_duration_seconds_count"
        assert seen(name, endpoint="/v1/chat/completions", status="none") == 1
        metrics = Metrics()
        away = LocalSettings(api_base="http://127.0.0.1:9/v1", max_attempts=1)
        async with service(settings_for(tmp_path / "b", local=away), metrics) as (_, client):
            await client.create((await client.upload(jsonl(chat_lines(1)))).id)
            await found(metrics, "batchyard_upstream_errors_total", kind="connection_error")


class TestDeployments:
    async def test_are_healthy_or_not_once_that_is_known(self, tmp_path: Path, metrics: Metrics) -> None:
        name = "batchyard_deployment_healthy"
        async with fake_openai() as good, fake_openai() as bad:
            settings = settings_for(tmp_path, **at_deployment("openai", good, bad))
            async with (
                service(settings, metrics) as (server, client),
                grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
            ):
                assert (await scrape(metrics)).series(name) == 0
                bad.fault(Answer(503))
                await AdminServiceStub(channel).CheckHealth(CheckHealthRequest(), metadata=client.metadata)
                seen = await scrape(metrics)
        assert seen.series(name) == 2
        assert (seen(name, deployment="openai"), seen(name, deployment="openai-2")) == (1, 0)


class TestRetention:
    async def test_files_that_expire_are_counted(self, tmp_path: Path, metrics: Metrics) -> None:
        now = 1_800_000_000.0
        retention = RetentionSettings(batch_file_seconds=10, sweep_seconds=0.02)
        settings = settings_for(tmp_path, retention=retention)
        async with service(settings, metrics, clock=lambda: now) as (_, client):
            for _ in range(2):
                await client.upload(jsonl(chat_lines(1)))
            now += 11
            seen = await found(metrics, "batchyard_files_expired_total", 2)
            assert seen("batchyard_files_expired_total") == 2
