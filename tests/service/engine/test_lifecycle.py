"""A batch's life at the embedded provider, seen by a gRPC client (facts 1.7, 2 and 3)."""

from pathlib import Path
from typing import Any

import grpc
from starlette.responses import Response
from tests.fakes import Gate, completion, failure, fake_endpoint
from tests.harness import chat_line, chat_lines, jsonl, refused, service, settings_for, until

from batchyard.service.config.settings import LocalSettings
from batchyard.v1 import (
    BatchStatus,
    CancelBatchRequest,
    DeleteFileRequest,
    GetFileRequest,
    ListFilesRequest,
)

FAILED = BatchStatus.BATCH_STATUS_FAILED
COMPLETED = BatchStatus.BATCH_STATUS_COMPLETED
CANCELLED = BatchStatus.BATCH_STATUS_CANCELLED
CANCELLING = BatchStatus.BATCH_STATUS_CANCELLING
EXPIRED = BatchStatus.BATCH_STATUS_EXPIRED
IN_PROGRESS = BatchStatus.BATCH_STATUS_IN_PROGRESS


async def answer(body: dict[str, Any], before: int) -> Response:
    return completion(body)


async def test_a_batch_completes_with_every_line_in_input_order(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        batch = await client.run(chat_lines(1234))
        results = await client.results(batch.output_file_id)
        assert batch.status == COMPLETED
        assert [line["custom_id"] for line in results] == [f"request-{number}" for number in range(1234)]
        assert not batch.HasField("error_file_id")
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (1234, 1234, 0)
        assert batch.model == "test-model"


async def test_a_result_line_has_openais_form(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        batch = await client.run([chat_line("only", "say it")])
        (line,) = await client.results(batch.output_file_id)
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert line["id"].startswith("batch_req_")
        assert line["error"] is None
        assert set(line["response"]) == {"status_code", "request_id", "body"}
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["choices"][0]["message"]["content"] == "say it"


async def test_every_timestamp_of_a_completed_batch_is_set_in_order(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        batch = await client.run(chat_lines(3))
        times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
        assert times == sorted(times)
        assert all(times)
        assert batch.expires_at == batch.created_at + 86_400
        assert not any((batch.failed_at, batch.expired_at, batch.cancelling_at, batch.cancelled_at))


async def test_usage_is_summed_over_lines(tmp_path: Path) -> None:
    async with fake_endpoint(answer) as fake:
        local = LocalSettings(api_base=fake.api_base)
        async with service(settings_for(tmp_path, local=local)) as (_, client):
            usage = (await client.run(chat_lines(10))).usage
            assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (30, 20, 50)
            assert usage.input_tokens_details.cached_tokens == 10
            assert usage.output_tokens_details.reasoning_tokens == 10


async def test_refused_lines_go_to_the_error_file_with_the_endpoints_own_answer(tmp_path: Path) -> None:
    async def refuse_odd(body: dict[str, Any], before: int) -> Response:
        odd = int(body["messages"][-1]["content"].split()[1]) % 2
        return failure(400, "invalid_value") if odd else completion(body)

    async with fake_endpoint(refuse_odd) as fake:
        local = LocalSettings(api_base=fake.api_base)
        async with service(settings_for(tmp_path, local=local)) as (_, client):
            batch = await client.run(chat_lines(10))
            errors = await client.results(batch.error_file_id)
            assert (batch.request_counts.completed, batch.request_counts.failed) == (5, 5)
            assert [line["custom_id"] for line in errors] == [f"request-{n}" for n in (1, 3, 5, 7, 9)]
            assert errors[0]["error"] is None
            assert errors[0]["response"]["status_code"] == 400
            assert errors[0]["response"]["body"]["error"]["code"] == "invalid_value"


async def test_a_batch_whose_lines_all_fail_completes_without_an_output_file(tmp_path: Path) -> None:
    async def refuse(body: dict[str, Any], before: int) -> Response:
        return failure(400)

    async with fake_endpoint(refuse) as fake:
        local = LocalSettings(api_base=fake.api_base)
        async with service(settings_for(tmp_path, local=local)) as (_, client):
            batch = await client.run(chat_lines(9))
            assert batch.status == COMPLETED
            assert not batch.HasField("output_file_id")
            assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 9)


async def test_short_urls_and_endpoints_mean_the_same_as_long_ones(tmp_path: Path) -> None:
    line = chat_line("short") | {"url": "/chat/completions"}
    async with service(settings_for(tmp_path)) as (_, client):
        batch = await client.run([line, chat_line("long")], endpoint="/chat/completions")
        assert batch.status == COMPLETED
        assert batch.endpoint == "/v1/chat/completions"
        assert batch.request_counts.completed == 2


async def test_counts_move_while_a_batch_runs_and_cancel_keeps_what_is_done(tmp_path: Path) -> None:
    gate = Gate()

    async def first_ones_only(body: dict[str, Any], before: int) -> Response:
        if int(body["messages"][-1]["content"].split()[1]) >= 10:
            await gate.passed()
        return completion(body)

    async with fake_endpoint(first_ones_only) as fake:
        local = LocalSettings(api_base=fake.api_base, max_concurrency=4)
        async with service(settings_for(tmp_path, local=local)) as (_, client):
            file = await client.upload(jsonl(chat_lines(100)))
            created = await client.create(file.id)
            running = await until(lambda: client.get(created.id), lambda b: b.request_counts.completed == 10)
            assert running.status == IN_PROGRESS
            assert running.request_counts.total == 100
            cancelling = await client.stub.CancelBatch(
                CancelBatchRequest(batch_id=created.id), metadata=client.metadata
            )
            assert cancelling.batch.status == CANCELLING
            assert cancelling.batch.cancelling_at
            gate.open()
            batch = await client.ended(created.id)
            assert batch.status == CANCELLED
            assert batch.cancelled_at >= batch.cancelling_at
            output = await client.results(batch.output_file_id)
            errors = await client.results(batch.error_file_id)
            # What was in flight is kept; what never ran is in no count.
            assert 10 <= len(output) <= 14
            assert batch.request_counts.completed == len(output)
            assert batch.request_counts.failed == 0
            assert len(output) + len(errors) == 100
            assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
            assert all(line["response"] is None for line in errors)
            assert sum(fake.calls.values()) == len(output)


async def test_cancelling_a_cancelled_batch_answers_with_it(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path, local=LocalSettings(echo=True, echo_delay_ms=60_000))) as (_, client):
        file = await client.upload(jsonl(chat_lines(3)))
        created = await client.create(file.id)
        request = CancelBatchRequest(batch_id=created.id)
        for _ in range(2):
            again = await client.stub.CancelBatch(request, metadata=client.metadata)
            assert again.batch.status in {CANCELLING, CANCELLED}


async def test_result_files_are_listed_described_and_deletable(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path)) as (_, client):
        batch = await client.run(chat_lines(2))
        listed = await client.stub.ListFiles(ListFilesRequest(purpose="batch_output"), metadata=client.metadata)
        (file,) = listed.data
        content = await client.read(batch.output_file_id)
        assert file.id == batch.output_file_id
        assert file.filename == f"{batch.id}_output.jsonl"
        assert file.bytes == len(content)
        assert file.expires_at == file.created_at + 2_592_000
        deleted = await client.stub.DeleteFile(DeleteFileRequest(file_id=file.id), metadata=client.metadata)
        assert deleted.deleted
        async with refused(grpc.StatusCode.NOT_FOUND) as errors:
            await client.stub.GetFile(GetFileRequest(file_id=file.id), metadata=client.metadata)
        assert errors[0].details() == f"No such File object: {file.id}"
        assert not list((tmp_path / "data/store/segments").iterdir())


async def test_more_batches_than_places_all_end(tmp_path: Path) -> None:
    local = LocalSettings(echo=True, max_active_batches=2, max_concurrency=3)
    async with service(settings_for(tmp_path, local=local)) as (_, client):
        file = await client.upload(jsonl(chat_lines(20)))
        created = [await client.create(file.id) for _ in range(12)]
        ended = [await client.ended(batch.id) for batch in created]
        assert {batch.status for batch in ended} == {COMPLETED}


async def test_a_bad_batch_fails_and_a_waiting_one_cancels_while_all_places_are_taken(tmp_path: Path) -> None:
    local = LocalSettings(echo=True, max_active_batches=1, echo_delay_ms=60_000)
    async with service(settings_for(tmp_path, local=local)) as (_, client):
        file = await client.upload(jsonl(chat_lines(2)))
        holder = await client.create(file.id)
        await until(lambda: client.get(holder.id), lambda b: b.status == IN_PROGRESS)
        waiting = await client.create(file.id)
        assert (await client.ended((await client.create("file-none")).id)).status == FAILED
        assert (await client.get(waiting.id)).status == BatchStatus.BATCH_STATUS_VALIDATING
        await client.stub.CancelBatch(CancelBatchRequest(batch_id=waiting.id), metadata=client.metadata)
        cancelled = await client.ended(waiting.id)
        assert cancelled.status == CANCELLED
        assert len(await client.results(cancelled.error_file_id)) == 2
