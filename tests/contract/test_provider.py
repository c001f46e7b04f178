"""What every provider does alike, as a gRPC client sees it. A feature that one lacks is in `providers.py`, with why."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from tests.contract.providers import SUBJECTS, Place, Subject
from tests.harness import ENDED, Client, chat_lines, jsonl, refused, until
from tests.statuses import told

from batchyard.v1 import (
    Batch,
    BatchStatus,
    CancelBatchRequest,
    DeleteFileRequest,
    DownloadFileRequest,
    File,
    GetBatchRequest,
    GetFileRequest,
    ListBatchesRequest,
    ListBatchesResponse,
    ListFilesRequest,
    ListFilesResponse,
    SortOrder,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
)

INPUT = jsonl(chat_lines(3))
FILE_ID = r"file-[0-9A-Za-z-]{22,36}"
PURPOSES = ["fine-tune", "assistants", "batch", "user_data", "vision", "evals"]
LARGE = b"{}\n" + bytes(range(256)) * 4096  # 1 MiB, in several pieces both ways; a batch's input by its first line


@pytest.fixture(
    params=[pytest.param(s, id=s.name, marks=[pytest.mark.once] if s.name != "local" else []) for s in SUBJECTS]
)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    subject: Subject = request.param
    if request.function.__name__ in subject.unsupported:
        pytest.skip(subject.unsupported[request.function.__name__])
    async with subject.running(tmp_path) as running:
        yield running


async def get_file(client: Client, file_id: str, provider: str = "") -> File:
    return (
        await client.stub.GetFile(GetFileRequest(file_id=file_id, provider=provider), metadata=client.metadata)
    ).file


async def list_files(client: Client, **fields: Any) -> ListFilesResponse:
    return await client.stub.ListFiles(ListFilesRequest(**fields), metadata=client.metadata)


async def list_batches(client: Client, **fields: Any) -> ListBatchesResponse:
    return await client.stub.ListBatches(ListBatchesRequest(**fields), metadata=client.metadata)


async def delete(client: Client, file_id: str) -> None:
    answer = await client.stub.DeleteFile(DeleteFileRequest(file_id=file_id), metadata=client.metadata)
    assert (answer.id, answer.deleted) == (file_id, True)


async def cancel(client: Client, batch_id: str) -> Batch:
    return (await client.stub.CancelBatch(CancelBatchRequest(batch_id=batch_id), metadata=client.metadata)).batch


class TestAFile:
    @pytest.mark.parametrize("purpose", PURPOSES)
    async def test_of_every_purpose_is_uploaded_described_and_read(self, place: Place, purpose: str) -> None:
        if purpose not in place.purposes:
            async with refused(StatusCode.INVALID_ARGUMENT):
                await place.client.upload(INPUT, purpose=purpose)
            return
        made = await place.client.upload(INPUT, purpose=purpose, filename="näme.jsonl")
        assert re.fullmatch(FILE_ID, made.id)
        file = await until(lambda: get_file(place.client, made.id), lambda file: file.status != "uploaded")
        assert (file.bytes, file.purpose, file.filename, file.status) == (
            len(INPUT),
            purpose,
            "näme.jsonl",
            "processed",
        )
        assert file.provider == place.provider
        assert file.created_at
        assert await get_file(place.client, file.id) == file
        if purpose in place.readable:
            assert await place.client.read(file.id) == INPUT
        else:
            async with refused(StatusCode.INVALID_ARGUMENT):
                await place.client.read(file.id)

    async def test_that_is_no_batch_may_be_empty(self, place: Place) -> None:
        file = await place.client.upload(b"", purpose="user_data")
        assert (file.bytes, await place.client.read(file.id)) == (0, b"")

    async def test_that_is_deleted_is_gone_everywhere(self, place: Place) -> None:
        file = await place.client.upload(INPUT)
        await delete(place.client, file.id)
        assert not (await list_files(place.client)).data
        for gone in (get_file(place.client, file.id), place.client.read(file.id), delete(place.client, file.id)):
            async with refused(StatusCode.NOT_FOUND):
                await gone

    async def test_that_a_batch_has_read_may_be_deleted(self, place: Place) -> None:
        batch = await place.client.run(chat_lines(1))
        await delete(place.client, batch.input_file_id)
        assert (await place.client.get(batch.id)).input_file_id == batch.input_file_id

    async def test_that_a_batch_reads_may_not(self, place: Place) -> None:
        file = await place.stuck.upload(INPUT)
        await place.stuck.create(file.id)
        async with refused(StatusCode.FAILED_PRECONDITION) as found:
            await delete(place.stuck, file.id)
        error = told(found[0])
        assert (error.reason, error.param) == ("FILE_IN_USE", "file_id")


class TestContent:
    @pytest.mark.parametrize(
        ("offset", "limit"),
        [(0, 0), (0, 1), (1, 0), (-1, 0), (-300_000, 0), (300_000, 400_000), (0, 2 << 20), (-(2 << 20), 5)],
    )
    async def test_is_read_from_any_offset_to_any_limit(self, place: Place, offset: int, limit: int) -> None:
        file = await place.client.upload(LARGE)
        start = max(0, len(LARGE) + offset) if offset < 0 else offset
        wanted = LARGE[start : start + limit] if limit else LARGE[start:]
        assert await place.client.read(file.id, offset, limit) == wanted

    async def test_is_announced_before_it_comes(self, place: Place) -> None:
        file = await place.client.upload(LARGE)
        request = DownloadFileRequest(file_id=file.id, read_offset=-10, read_limit=4)
        first, *rest = [m async for m in place.client.stub.DownloadFile(request, metadata=place.client.metadata)]
        info = first.info
        assert (info.total_size, info.offset, info.length) == (len(LARGE), len(LARGE) - 10, 4)
        assert (info.filename, info.content_type) == ("input.jsonl", "application/octet-stream")
        assert info.etag
        assert b"".join(message.data for message in rest) == LARGE[-10:-6]

    async def test_comes_in_pieces_that_fit_a_message(self, place: Place) -> None:
        file = await place.client.upload(LARGE)
        request = DownloadFileRequest(file_id=file.id)
        pieces = [m.data async for m in place.client.stub.DownloadFile(request, metadata=place.client.metadata)]
        assert max(map(len, pieces)) <= 1 << 20

    @pytest.mark.parametrize("offset", [len(INPUT), len(INPUT) + 1, 1 << 62])
    async def test_that_starts_behind_the_end_is_out_of_range(self, place: Place, offset: int) -> None:
        file = await place.client.upload(INPUT)
        async with refused(StatusCode.OUT_OF_RANGE) as found:
            await place.client.read(file.id, offset)
        assert told(found[0]).param == "read_offset"

    async def test_of_an_empty_file_is_read_from_its_start_and_its_end(self, place: Place) -> None:
        file = await place.client.upload(b"", purpose="user_data")
        assert await place.client.read(file.id, 0) == b""
        assert await place.client.read(file.id, -5) == b""
        async with refused(StatusCode.OUT_OF_RANGE):
            await place.client.read(file.id, 1)


class TestABatch:
    async def test_is_created_validating_and_as_it_was_asked_for(self, place: Place) -> None:
        file = await place.client.upload(INPUT)
        batch = await place.client.create(file.id, metadata={"k": "v"})
        assert re.fullmatch(r"batch_[0-9a-f-]{32,36}", batch.id)
        assert batch.status == BatchStatus.BATCH_STATUS_VALIDATING
        assert (batch.input_file_id, batch.endpoint) == (file.id, "/v1/chat/completions")
        assert (batch.completion_window, dict(batch.metadata)) == ("24h", {"k": "v"})
        assert batch.expires_at == batch.created_at + 86_400
        assert batch.provider == place.provider
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (0, 0, 0)

    async def test_ends_with_a_result_for_each_line(self, place: Place) -> None:
        batch = await place.client.run(chat_lines(3))
        results = await place.client.results(batch.output_file_id)
        assert batch.status == BatchStatus.BATCH_STATUS_COMPLETED
        assert {line["custom_id"] for line in results} == {f"request-{number}" for number in range(3)}
        file = await get_file(place.client, batch.output_file_id)
        assert (file.purpose, file.provider) == ("batch_output", place.provider)
        assert re.fullmatch(FILE_ID, file.id)

    async def test_is_told_anew_where_that_is_asked_for(self, place: Place) -> None:
        live = await place.stuck.create((await place.stuck.upload(INPUT)).id)
        assert await _fresh(place.stuck, live.id) == (live.id, 0)
        ended = await place.client.run(chat_lines(1))
        assert await _fresh(place.client, ended.id) == (ended.id, 0)

    async def test_over_a_missing_input_is_accepted_and_fails(self, place: Place) -> None:
        batch = await place.client.ended((await place.client.create("file-missing")).id)
        assert batch.status == BatchStatus.BATCH_STATUS_FAILED
        assert [(error.code, error.param) for error in batch.errors.data] == [("invalid_request", "file_id")]

    async def test_is_cancelled_and_may_be_cancelled_again(self, place: Place) -> None:
        file = await place.stuck.upload(INPUT)
        batch = await place.stuck.create(file.id)
        first = await cancel(place.stuck, batch.id)
        again = await cancel(place.stuck, batch.id)
        assert first.status == BatchStatus.BATCH_STATUS_CANCELLING
        assert first.cancelling_at
        assert again.status in {BatchStatus.BATCH_STATUS_CANCELLING, *ENDED}

    async def test_that_has_ended_can_not_be_cancelled(self, place: Place) -> None:
        batch = await place.client.run(chat_lines(1))
        async with refused(StatusCode.FAILED_PRECONDITION) as found:
            await cancel(place.client, batch.id)
        error = told(found[0])
        assert (error.reason, error.code, error.param) == ("BATCH_ENDED", None, None)
        assert error.message == "Cannot cancel a batch with status 'completed'."


class TestAListOfFiles:
    async def test_is_paged_newest_first_or_oldest_first(self, place: Place) -> None:
        ids = [(await place.client.upload(INPUT)).id for _ in range(5)]
        assert await _pages(place.client, limit=2) == [ids[:2:-1], [ids[2], ids[1]], [ids[0]]]
        assert await _pages(place.client, limit=2, order=SortOrder.SORT_ORDER_DESC) == [
            ids[:2:-1],
            [ids[2], ids[1]],
            [ids[0]],
        ]
        assert await _pages(place.client, limit=2, order=SortOrder.SORT_ORDER_ASC) == [ids[:2], ids[2:4], [ids[4]]]
        assert await _pages(place.client, limit=5) == [ids[::-1]]

    async def test_that_is_empty_has_no_ends_and_no_more(self, place: Place) -> None:
        page = await list_files(place.client)
        assert not page.HasField("first_id")
        assert not page.HasField("last_id")
        assert (list(page.data), page.has_more) == ([], False)

    async def test_is_filtered_by_purpose(self, place: Place) -> None:
        await place.client.upload(INPUT)
        wanted = await place.client.upload(INPUT, purpose="fine-tune")
        assert [file.id for file in (await list_files(place.client, purpose="fine-tune")).data] == [wanted.id]
        assert not (await list_files(place.client, purpose="evals")).data

    async def test_goes_on_where_it_was_while_files_come_and_go(self, place: Place) -> None:
        ids = [(await place.client.upload(INPUT)).id for _ in range(4)]
        first = await list_files(place.client, limit=2)
        await place.client.upload(INPUT)
        await delete(place.client, first.last_id)
        second = await list_files(place.client, limit=2, after=first.last_id)
        assert [file.id for file in second.data] == [ids[1], ids[0]]

    async def test_after_an_unknown_file_is_refused(self, place: Place) -> None:
        async with refused(StatusCode.INVALID_ARGUMENT) as found:
            await list_files(place.client, after="file-none")
        assert told(found[0]).param == "after"

    @pytest.mark.parametrize("limit", [0, -1, 10_001])
    async def test_of_an_impossible_length_is_refused(self, place: Place, limit: int) -> None:
        async with refused(StatusCode.INVALID_ARGUMENT) as found:
            await list_files(place.client, limit=limit)
        assert told(found[0]).param == "limit"


class TestAListOfBatches:
    async def test_is_paged_newest_first(self, place: Place) -> None:
        ids = [(await place.client.create("file-none")).id for _ in range(5)]
        pages = []
        page = await list_batches(place.client, limit=2)
        while page.has_more:
            pages.append(page)
            page = await list_batches(place.client, limit=2, after=page.last_id)
        found = [[batch.id for batch in each.data] for each in (*pages, page)]
        assert found == [ids[:2:-1], [ids[2], ids[1]], [ids[0]]]
        assert [(each.first_id, each.last_id) for each in (*pages, page)] == [(each[0], each[-1]) for each in found]

    async def test_has_twenty_unless_it_is_said(self, place: Place) -> None:
        for _ in range(21):
            await place.client.create("file-none")
        page = await list_batches(place.client)
        assert (len(page.data), page.has_more) == (20, True)

    async def test_of_large_batches_fits_a_message(self, place: Place) -> None:
        metadata = {f"{number:02}{'k' * 62}": "🔑" * 512 for number in range(16)}
        ids = [(await place.client.create("file-none", metadata=metadata)).id for _ in range(100)]
        first = await list_batches(place.client, limit=100)
        rest = await list_batches(place.client, limit=100, after=first.last_id)
        assert first.has_more
        assert [batch.id for batch in (*first.data, *rest.data)] == ids[::-1]

    @pytest.mark.parametrize("limit", [0, 101])
    async def test_of_an_impossible_length_is_refused(self, place: Place, limit: int) -> None:
        async with refused(StatusCode.INVALID_ARGUMENT) as found:
            await list_batches(place.client, limit=limit)
        assert told(found[0]).param == "limit"

    async def test_after_an_unknown_batch_is_refused(self, place: Place) -> None:
        async with refused(StatusCode.INVALID_ARGUMENT) as found:
            await list_batches(place.client, after="batch_none")
        assert told(found[0]).param == "after"


async def _fresh(client: Client, batch_id: str) -> tuple[str, int]:
    """A batch as it is said to be now: its id, and how old that is."""
    request = GetBatchRequest(batch_id=batch_id, fresh=True)
    batch = (await client.stub.GetBatch(request, metadata=client.metadata)).batch
    return batch.id, batch.age_seconds


Ask = Callable[[Client, str, str], Awaitable[Any]]


async def _download(client: Client, an_id: str, provider: str) -> Any:
    request = DownloadFileRequest(file_id=an_id, provider=provider)
    return [message async for message in client.stub.DownloadFile(request, metadata=client.metadata)]


async def _upload_to(client: Client, _: str, provider: str) -> Any:
    metadata = UploadFileMetadata(provider=provider, purpose="fine-tune")
    messages = [UploadFileRequest(metadata=metadata), UploadFileRequest(finish=UploadFileFinish(size=0))]
    return await client.stub.UploadFile(iter(messages), metadata=client.metadata)


async def _delete(client: Client, an_id: str, provider: str) -> Any:
    request = DeleteFileRequest(file_id=an_id, provider=provider)
    return await client.stub.DeleteFile(request, metadata=client.metadata)


async def _get_batch(client: Client, an_id: str, provider: str) -> Any:
    return await client.stub.GetBatch(GetBatchRequest(batch_id=an_id, provider=provider), metadata=client.metadata)


async def _cancel(client: Client, an_id: str, provider: str) -> Any:
    request = CancelBatchRequest(batch_id=an_id, provider=provider)
    return await client.stub.CancelBatch(request, metadata=client.metadata)


OF_FILES: list[Ask] = [get_file, _download, _delete]
OF_BATCHES: list[Ask] = [_get_batch, _cancel]


class TestAnId:
    @pytest.mark.parametrize("file_id", ["file-none", "batch_x", "../../etc/passwd", "文", "x" * 100_000])
    @pytest.mark.parametrize("ask", OF_FILES)
    async def test_of_no_file_is_not_found(self, place: Place, ask: Ask, file_id: str) -> None:
        async with refused(StatusCode.NOT_FOUND) as found:
            await ask(place.client, file_id, "")
        error = told(found[0])
        assert (error.type, error.param, error.code) == ("invalid_request_error", "id", None)
        assert error.message.startswith(f"No such File object: {file_id[:500]}")

    @pytest.mark.parametrize("batch_id", ["batch_none", "file-x", "文"])
    @pytest.mark.parametrize("ask", OF_BATCHES)
    async def test_of_no_batch_is_not_found(self, place: Place, ask: Ask, batch_id: str) -> None:
        async with refused(StatusCode.NOT_FOUND) as found:
            await ask(place.client, batch_id, "")
        error = told(found[0])
        assert (error.type, error.param, error.code) == ("invalid_request_error", None, None)
        assert error.message == f"No batch found with id '{batch_id}'."


class TestAProvidersName:
    async def test_leads_to_what_it_holds(self, place: Place) -> None:
        batch = await place.client.run(chat_lines(1))
        assert (await get_file(place.client, batch.input_file_id, place.provider)).id == batch.input_file_id
        assert (await _get_batch(place.client, batch.id, place.provider)).batch.id == batch.id
        assert len((await list_files(place.client, provider=place.provider)).data) == 2
        assert len((await list_batches(place.client, provider=place.provider)).data) == 1
        assert (await _upload_to(place.client, "", place.provider)).file.provider == place.provider

    @pytest.mark.parametrize("ask", [*OF_FILES, *OF_BATCHES, _upload_to])
    async def test_that_is_unknown_is_an_invalid_argument(self, place: Place, ask: Ask) -> None:
        async with refused(StatusCode.INVALID_ARGUMENT) as found:
            await ask(place.client, "some-id", "nowhere")
        error = told(found[0])
        assert error.param == "provider"
        assert "'nowhere'" in error.message

    async def test_that_is_unknown_is_one_in_lists_and_creations_too(self, place: Place) -> None:
        for call in (
            list_files(place.client, provider="nowhere"),
            list_batches(place.client, provider="nowhere"),
            place.client.create("file-none", provider="nowhere"),
        ):
            async with refused(StatusCode.INVALID_ARGUMENT) as found:
                await call
            assert told(found[0]).param == "provider"


async def _pages(client: Client, **fields: Any) -> list[list[str]]:
    """The ids of all pages; each page's ends must be its first and last id."""
    pages: list[list[str]] = []
    page = await list_files(client, **fields)
    while True:
        pages.append([file.id for file in page.data])
        assert (page.first_id, page.last_id) == (pages[-1][0], pages[-1][-1])
        if not page.has_more:
            return pages
        page = await list_files(client, after=page.last_id, **fields)
