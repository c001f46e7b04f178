"""The upload stream of the contract, message by message: what is kept, what is refused, and what is left behind."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from tests.harness import Client, chat_lines, jsonl, refused, service, settings_for, until
from tests.statuses import told, trailer

from batchyard.service.config.settings import Limits, Settings
from batchyard.v1 import (
    BatchServiceStub,
    ExpiresAfter,
    File,
    ListFilesRequest,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
)

BATCH = jsonl(chat_lines(3))
CANCELS = 50


def about(**fields: Any) -> UploadFileRequest:
    return UploadFileRequest(metadata=UploadFileMetadata(**fields))


def data(piece: bytes) -> UploadFileRequest:
    return UploadFileRequest(data=piece)


def finish(size: int, digest: bytes | None = None) -> UploadFileRequest:
    return UploadFileRequest(finish=UploadFileFinish(size=size, sha256=digest))


def limited(folder: Path, **limits: Any) -> Settings:
    return settings_for(folder, limits=replace(Limits(), **limits))


async def send(client: Client, *messages: UploadFileRequest) -> File:
    return (await client.stub.UploadFile(iter(messages), metadata=client.metadata)).file


async def listed(client: Client) -> list[File]:
    return list((await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)).data)


async def assert_nothing_left(client: Client, folder: Path) -> None:
    """No row, and within the tests' patience no byte."""
    assert not await listed(client)

    async def stored() -> list[Path]:
        return [path for path in (folder / "data/store").rglob("*") if path.is_file()]

    await until(stored, lambda found: not found)


class TestAnUpload:
    async def test_in_pieces_is_kept_as_sent(self, tmp_path: Path) -> None:
        pieces = [bytes([number]) * (number * 1000) for number in range(1, 100)]
        whole = b"".join(pieces)
        async with service(settings_for(tmp_path)) as (_, client):
            about_it = about(purpose="user_data", filename="a.bin")
            file = await send(client, about_it, *map(data, pieces), finish(len(whole), sha256(whole).digest()))
            assert (file.bytes, file.purpose, file.filename) == (len(whole), "user_data", "a.bin")
            assert await client.read(file.id) == whole

    async def test_with_fields_that_nobody_knows_is_kept(self, tmp_path: Path) -> None:
        unknown = UploadFileRequest(metadata=UploadFileMetadata.FromString(b"\xf8\x7f\x01" * 1_000_000))
        async with service(settings_for(tmp_path)) as (_, client):
            about_it = about(purpose="batch", filename="a.jsonl")
            file = await send(client, *[unknown] * 63, about_it, data(BATCH), finish(len(BATCH)))
            assert file.stats.lines == 3

    async def test_of_a_batch_is_scanned(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            file = await send(client, about(purpose="batch", filename="a.jsonl"), data(BATCH), finish(len(BATCH)))
            assert (file.stats.lines, list(file.stats.models)) == (3, ["test-model"])
            assert file.stats.sha256 == sha256(BATCH).digest()

    async def test_is_told_that_it_is_accepted_before_it_sends_anything(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            call = client.stub.UploadFile(metadata=client.metadata)
            assert trailer(await call.initial_metadata(), "batchyard-accepted") == "1"
            call.cancel()

    async def test_that_no_key_allows_is_told_nothing_first(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            call = client.stub.UploadFile()
            assert not await call.initial_metadata()
            assert await call.code() is StatusCode.UNAUTHENTICATED

    async def test_may_say_its_purpose_late(self, tmp_path: Path) -> None:
        messages = [about(filename="a.jsonl"), data(BATCH), about(purpose="batch"), finish(len(BATCH))]
        async with service(settings_for(tmp_path)) as (_, client):
            file = await send(client, *messages)
            assert (file.purpose, file.filename, file.stats.lines) == ("batch", "a.jsonl", 3)

    async def test_may_say_everything_late_and_piece_by_piece(self, tmp_path: Path) -> None:
        after = ExpiresAfter(anchor="created_at", seconds=3600)
        late = [about(purpose="user_data"), about(filename="b"), about(expires_after=after), about(provider="local")]
        async with service(settings_for(tmp_path)) as (_, client):
            file = await send(client, about(), data(b"x"), *late, finish(1))
            assert (file.purpose, file.filename) == ("user_data", "b")
            assert file.expires_at == file.created_at + 3600

    @pytest.mark.parametrize("purpose", ["user_data", "vision", "assistants", "fine-tune", "evals"])
    async def test_may_be_empty_where_it_is_no_batch(self, tmp_path: Path, purpose: str) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            file = await send(client, about(purpose=purpose), finish(0))
            assert file.bytes == 0
            assert await client.read(file.id) == b""

    async def test_may_have_an_unscanned_purpose_and_any_name(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            assert (await send(client, about(purpose="vision", filename="a.png"), data(b"x"), finish(1))).id


class TestARefusedUpload:
    @pytest.mark.parametrize("purpose", ["batch", "user_data"])
    async def test_is_too_large(self, tmp_path: Path, purpose: str) -> None:
        messages = [about(purpose=purpose, filename="a.jsonl"), data(BATCH), finish(len(BATCH))]
        async with service(limited(tmp_path, max_file_bytes=len(BATCH) - 1)) as (_, client):
            async with refused(StatusCode.INVALID_ARGUMENT) as found:
                await send(client, *messages)
            error = told(found[0])
            assert (error.reason, error.param) == ("TOO_LARGE", "file")
            assert error.message == f"The file is larger than the maximum of {len(BATCH) - 1} bytes."
            await assert_nothing_left(client, tmp_path)

    async def test_is_not_one_that_is_only_too_large_for_a_batch_which_fails(self, tmp_path: Path) -> None:
        async with service(limited(tmp_path, max_batch_file_bytes=len(BATCH) - 1)) as (_, client):
            file = await client.upload(BATCH)
            batch = await client.ended((await client.create(file.id)).id)
            assert batch.errors.data[0].message.startswith(f"The batch input file is larger than the {len(BATCH) - 1}")

    async def test_of_exactly_the_limit_is_none(self, tmp_path: Path) -> None:
        async with service(limited(tmp_path, max_file_bytes=len(BATCH))) as (_, client):
            assert (await client.upload(BATCH)).bytes == len(BATCH)

    async def test_ends_before_its_bytes_have_come(self, tmp_path: Path) -> None:
        sent, total = 0, 2000

        def messages() -> Iterator[UploadFileRequest]:
            nonlocal sent
            yield about(purpose="user_data")
            for sent in range(total):  # noqa: B007 - counted for the assertion
                yield data(b"x" * (256 << 10))

        async with service(limited(tmp_path, max_file_bytes=1 << 20)) as (server, client):

            def upload() -> StatusCode:
                # Not over grpc.aio, whose client forgets a status that comes while it sends.
                with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                    try:
                        BatchServiceStub(channel).UploadFile(messages(), metadata=client.metadata)
                    except grpc.RpcError as error:
                        return StatusCode(error.code().value)
                    return StatusCode.OK

            assert await asyncio.to_thread(upload) is StatusCode.INVALID_ARGUMENT
            assert sent < total / 10
            await assert_nothing_left(client, tmp_path)

    async def test_went_silent(self, tmp_path: Path) -> None:
        async with service(limited(tmp_path, upload_idle_seconds=0.5)) as (_, client):
            call = client.stub.UploadFile(metadata=client.metadata)
            await call.write(about(purpose="user_data"))
            await call.write(data(b"x"))
            async with refused(StatusCode.DEADLINE_EXCEEDED) as found:
                await call
            error = told(found[0])
            assert (error.reason, error.message) == ("TIMEOUT", "The upload sent nothing for 0.5 seconds.")
            await assert_nothing_left(client, tmp_path)


async def test_uploads_beyond_the_bound_are_told_when_to_come_back(tmp_path: Path) -> None:
    async with service(limited(tmp_path, max_concurrent_uploads=2)) as (_, client):
        running = [client.stub.UploadFile(metadata=client.metadata) for _ in range(2)]
        for call in running:
            await call.write(about(purpose="user_data"))
            await call.write(data(b"x"))

        async def third() -> StatusCode:
            call = client.stub.UploadFile(iter([about(purpose="user_data"), finish(0)]), metadata=client.metadata)
            return await call.code()

        await until(third, lambda code: code is not StatusCode.OK)
        async with refused(StatusCode.RESOURCE_EXHAUSTED) as found:
            await send(client, about(purpose="user_data"), finish(0))
        error = told(found[0])
        assert (error.reason, error.retry_after) == ("BUSY", 1)
        running.pop().cancel()
        assert await until(third, lambda code: code is StatusCode.OK) is StatusCode.OK
        running.pop().cancel()


async def test_uploads_that_are_cancelled_anywhere_leave_nothing(tmp_path: Path) -> None:
    random = Random(7)
    content = b"".join(jsonl(chat_lines(1)) for _ in range(8000))  # about a MiB
    async with service(settings_for(tmp_path)) as (_, client):
        for _ in range(CANCELS):
            await _cancelled(client, content, random)
        await assert_nothing_left(client, tmp_path)
        assert (await client.upload(BATCH)).bytes == len(BATCH)


async def _cancelled(client: Client, content: bytes, random: Random) -> None:
    """Sends a random part of an upload, and cancels it at once or after the service has had a turn."""
    call = client.stub.UploadFile(metadata=client.metadata)
    for message in _beginning(content, random):
        await call.write(message)
    for _ in range(random.randrange(3)):
        await client.stub.ListFiles(ListFilesRequest(limit=1), metadata=client.metadata)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def _beginning(content: bytes, random: Random) -> Iterable[UploadFileRequest]:
    if random.random() < 0.1:
        return
    yield about(purpose=random.choice(["", "batch", "user_data"]), filename="a.jsonl")
    end = random.randrange(len(content))
    for start in range(0, end, 100_000):
        yield data(content[start : min(start + 100_000, end)])


class TestManyLines:
    """Of 20 MB each: a line's share of the work would be minutes."""

    @pytest.mark.parametrize("unit", [b"\n", b"\r\n", b" \n"], ids=["lf", "crlf", "blank"])
    async def test_that_are_blank_are_passed_over(self, tmp_path: Path, unit: bytes) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            blanks = unit * (20_000_000 // len(unit))
            assert (await client.upload(blanks + BATCH + blanks)).stats.lines == 3

    async def test_beyond_the_limit_keep_nobody_else_waiting(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            bad = [asyncio.create_task(client.upload(b"1\n" * 10_000_000)) for _ in range(6)]
            batch = await client.run(chat_lines(3))
            assert batch.request_counts.completed == 3
            assert {file.stats.lines for file in await asyncio.gather(*bad)} == {10_000_000}

    async def test_that_are_blank_between_requests_keep_nobody_waiting_when_these_run(self, tmp_path: Path) -> None:
        blanks = b"\n" * 1_000_000
        lines = blanks.join(jsonl([line]) for line in chat_lines(8))
        async with service(settings_for(tmp_path)) as (_, client):
            file = await client.upload(lines)
            batch = await client.ended((await client.create(file.id)).id)
            assert batch.request_counts.completed == 8
