"""Bytes pass through in both directions: unchanged, as they come, and never as a short file that looks whole."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc import StatusCode
from tests.harness import KEY, PIECE, refused, until, upload_messages
from tests.rest.conftest import FORM, Part, form, refusal
from tests.statuses import told
from tests.upstream.exchange import Seen
from tests.upstream.faults import Answer, Broken, Deaf, Hang, Refuse, Reset, Stalled
from tests.upstream.quirks import Quirks

from batchyard.v1 import DownloadFileRequest, UploadFileFinish, UploadFileMetadata, UploadFileRequest

from .scene import CONTENT, INPUT, UPLOAD, Provider, Scene, scene

MIB = 1 << 20
PATIENCE = 10.0
LARGE = b"{}\n" + random.Random(7).randbytes(MIB + 12_345)
LONGER = "-0123456789"
SMALL = b"{}\n"
LIFE = (("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "1300000"))
AHEAD = 24 * MIB
"""What may be on its way at once through all connections of a transfer."""


def hinted(data: bytes, hint: int | None) -> Iterator[UploadFileRequest]:
    return upload_messages(data, UploadFileMetadata(purpose="batch", filename="in.jsonl", size_hint=hint))


async def by_hint(found: Scene, data: bytes) -> str:
    answer = await found.door.grpc.stub.UploadFile(hinted(data, len(data)), metadata=found.door.grpc.metadata)
    return answer.file.id


async def without_hint(found: Scene, data: bytes) -> str:
    return (await found.door.grpc.upload(data)).id


async def file_last(found: Scene, data: bytes) -> str:
    fields = {"purpose": "batch", **dict(LIFE)}
    return await posted(found, data=fields, files={"file": ("in.jsonl", data)})


async def fields_behind(found: Scene, data: bytes) -> str:
    return await posted_form(found, ("purpose", "batch"), ("file", data, "in.jsonl"), *LIFE)


async def file_first(found: Scene, data: bytes) -> str:
    return await posted_form(found, ("file", data, "in.jsonl"), ("purpose", "batch"), *LIFE)


async def posted_form(found: Scene, *parts: Part) -> str:
    """Sends a form with a boundary as long as any client's."""
    long = {"content-type": FORM["content-type"] + LONGER}
    return await posted(
        found, content=form(*parts).replace(b"--b0undary", b"--b0undary" + LONGER.encode()), headers=long
    )


async def in_chunks(found: Scene, data: bytes) -> str:
    async def pieces() -> AsyncIterator[bytes]:
        whole = form(("file", data, "in.jsonl"), ("purpose", "batch"))
        for start in range(0, len(whole), 50_000):
            yield whole[start : start + 50_000]

    return await posted(found, content=pieces(), headers=FORM)


async def posted(found: Scene, **request: Any) -> str:
    answer = await found.door.rest.post("/v1/files", **request)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


WAYS: list[tuple[Callable[[Scene, bytes], Awaitable[str]], bool]] = [
    (by_hint, True),
    (without_hint, False),
    (file_last, True),
    (fields_behind, True),
    (file_first, True),
    (in_chunks, False),
]


def only(found: Scene, where: Callable[[Seen], bool]) -> Seen:
    (seen,) = filter(where, found.fake.requests)
    return seen


async def left_alone(found: Scene) -> None:
    """Nothing is kept on either side once every upload that got there has ended there."""
    for seen in filter(UPLOAD, found.fake.requests):
        await asyncio.wait_for(seen.ended.wait(), PATIENCE)
    assert found.fake.files == {}
    assert (await found.door.rest.get("/v1/files")).json()["data"] == []


class TestAnUpload:
    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("provider", ["openai", "azure"])
    @pytest.mark.parametrize(("way", "known"), WAYS, ids=[way.__name__ for way, _ in WAYS])
    async def test_arrives_unchanged_with_its_length_where_that_is_known(
        self,
        tmp_path: Path,
        provider: Provider,
        way: Callable[[Scene, bytes], Awaitable[str]],
        known: bool,
        data: bytes,
    ) -> None:
        async with scene(tmp_path, provider) as found:
            stored = found.fake.files[await way(found, data)]
            seen = only(found, UPLOAD)
            assert (stored.sha256, stored.data == data) == (sha256(data).hexdigest(), True)
            assert stored.description["filename"] in {"in.jsonl", "input.jsonl"}
            assert (seen.content_length is not None, seen.chunked) == (known, not known)
            assert [part.value for part in seen.parts if part.name == "purpose"] == ["batch"]
            if known:
                assert seen.content_length == seen.length
                assert seen.length < len(data) + 2000

    @pytest.mark.parametrize("hint", [0, len(LARGE) - 1, len(LARGE) + 100_000, 1 << 40])
    async def test_that_was_announced_wrongly_leaves_nothing(self, tmp_path: Path, hint: int) -> None:
        async with scene(tmp_path) as found:
            async with refused(StatusCode.INVALID_ARGUMENT) as errors:
                client = found.door.grpc
                await client.stub.UploadFile(hinted(LARGE, hint), metadata=client.metadata)
            assert told(errors[0]).param == "size_hint"
            await left_alone(found)

    async def test_that_was_announced_a_little_larger_is_whole(self, tmp_path: Path) -> None:
        """`size_hint` is the most that may come."""
        async with scene(tmp_path) as found:
            client = found.door.grpc
            answer = await client.stub.UploadFile(hinted(LARGE, len(LARGE) + 100), metadata=client.metadata)
            assert found.fake.files[answer.file.id].data == LARGE

    async def test_that_finishes_wrongly_leaves_nothing(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            *begun, _ = hinted(LARGE, None)
            for finish in (UploadFileFinish(size=1), UploadFileFinish(size=len(LARGE), sha256=b"0" * 32)):
                async with refused(StatusCode.INVALID_ARGUMENT):
                    client = found.door.grpc
                    sent = iter([*begun, UploadFileRequest(finish=finish)])
                    await client.stub.UploadFile(sent, metadata=client.metadata)
            await left_alone(found)

    @pytest.mark.parametrize("hint", [len(LARGE), None], ids=["known", "chunked"])
    async def test_whose_caller_leaves_is_broken_off(self, tmp_path: Path, hint: int | None) -> None:
        async with scene(tmp_path) as found:
            *begun, _ = hinted(LARGE, hint)
            call = found.door.grpc.stub.UploadFile(metadata=found.door.grpc.metadata)
            for message in begun:
                await call.write(message)
            seen = await found.fake.arrival(UPLOAD)
            call.cancel()
            await left_alone(found)
            assert seen.left
            assert not [part for part in seen.parts if part.name == "file"]

    async def test_whose_caller_leaves_over_rest_is_broken_off(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            body = form(("purpose", "batch"), ("file", LARGE, "in.jsonl"))
            head = (
                f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n"
            )
            head += f"content-type: {FORM['content-type']}\r\n\r\n"
            _, writer = await found.door.send_raw(head.encode(), body[:-100])
            seen = await found.fake.arrival(UPLOAD)
            writer.close()
            await left_alone(found)
            assert seen.left

    async def test_that_is_refused_in_its_midst_brings_the_providers_answer(self, tmp_path: Path) -> None:
        body = {"error": {"message": "Too much.", "type": "their_type", "param": "file", "code": "their_code"}}
        async with scene(tmp_path) as found:
            found.fake.fault(Refuse(300_000, 413, body), times=2, where=UPLOAD)
            answer = await found.door.rest.post(
                "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", LARGE * 8)}
            )
            assert refusal(answer, 413) == body["error"]
            async with refused(StatusCode.INVALID_ARGUMENT) as errors:
                await found.door.grpc.upload(LARGE * 8)
            assert told(errors[0]).code == "their_code"
            await left_alone(found)

    async def test_that_is_refused_and_cut_off_is_an_error(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            found.fake.fault(Refuse(300_000, abrupt=True), where=UPLOAD)
            answer = await found.door.rest.post(
                "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", LARGE * 8)}
            )
            refusal(answer, answer.status_code)
            assert answer.status_code in {413, 503}
            await left_alone(found)

    async def test_whose_connection_breaks_is_an_error(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            found.fake.fault(Reset(after=300_000), where=UPLOAD)
            async with refused(StatusCode.UNAVAILABLE) as errors:
                await found.door.grpc.upload(LARGE * 8)
            assert told(errors[0]).reason == "UNSURE"
            await left_alone(found)

    @pytest.mark.parametrize("fault", [Deaf(after=300_000), Hang()], ids=["deaf", "hanging"])
    async def test_that_is_not_taken_ends_in_time(self, tmp_path: Path, fault: Deaf | Hang) -> None:
        async with scene(tmp_path, idle_seconds=0.5) as found:
            found.fake.fault(fault, where=UPLOAD)
            sent = 0

            def messages() -> Iterator[UploadFileRequest]:
                nonlocal sent
                for message in hinted(LARGE * 32, None):
                    sent += len(message.data)
                    yield message

            async with refused(StatusCode.DEADLINE_EXCEEDED):
                await found.door.grpc.stub.UploadFile(messages(), metadata=found.door.grpc.metadata)
            if isinstance(fault, Deaf):
                assert sent < AHEAD
            assert found.fake.files == {}


class TestADownload:
    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize("provider", ["openai", "azure"])
    async def test_arrives_unchanged(self, tmp_path: Path, provider: Provider, chunked: bool) -> None:
        async with scene(tmp_path, provider, Quirks(content_chunked=chunked)) as found:
            file_id = await by_hint(found, LARGE)
            answer = await found.door.rest.get(f"/v1/files/{file_id}/content")
            assert (answer.status_code, answer.content == LARGE) == (200, True)
            assert answer.headers.get("content-length") == (None if chunked else str(len(LARGE)))
            assert await found.door.grpc.read(file_id) == LARGE

    @pytest.mark.parametrize("ranges", [True, False])
    @pytest.mark.parametrize(
        ("asked", "start", "end"),
        [
            ("bytes=0-9", 0, 10),
            ("bytes=300000-", 300_000, len(LARGE)),
            ("bytes=300000-600000", 300_000, 600_001),
            ("bytes=-7", len(LARGE) - 7, len(LARGE)),
            ("bytes=-99999999", 0, len(LARGE)),
            ("bytes=5-99999999", 5, len(LARGE)),
        ],
    )
    async def test_may_be_of_a_part(self, tmp_path: Path, ranges: bool, asked: str, start: int, end: int) -> None:
        async with scene(tmp_path, quirks=Quirks(ranges=ranges)) as found:
            file_id = await by_hint(found, LARGE)
            answer = await found.door.rest.get(f"/v1/files/{file_id}/content", headers={"range": asked})
            assert (answer.status_code, answer.content == LARGE[start:end]) == (206, True)
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(LARGE)}"

    @pytest.mark.parametrize("ranges", [True, False])
    async def test_behind_the_end_is_not_satisfied(self, tmp_path: Path, ranges: bool) -> None:
        async with scene(tmp_path, quirks=Quirks(ranges=ranges)) as found:
            file_id = await by_hint(found, SMALL)
            answer = await found.door.rest.get(f"/v1/files/{file_id}/content", headers={"range": "bytes=3-"})
            refusal(answer, 416)
            assert answer.headers["content-range"] == "bytes */3"

    async def test_of_a_part_needs_ranges_or_a_length(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=Quirks(content_chunked=True)) as found:
            file_id = await by_hint(found, LARGE)
            answer = await found.door.rest.get(f"/v1/files/{file_id}/content", headers={"range": "bytes=5-9"})
            assert (answer.status_code, answer.content) == (206, LARGE[5:10])
        async with scene(tmp_path / "other", quirks=Quirks(content_chunked=True, ranges=False)) as found:
            file_id = await by_hint(found, LARGE)
            answer = await found.door.rest.get(f"/v1/files/{file_id}/content", headers={"range": "bytes=5-9"})
            refusal(answer, 501)

    async def test_of_a_part_that_nobody_names_is_an_error(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await by_hint(found, LARGE)
            found.fake.fault(Answer(206, b"some"), where=CONTENT)
            async with refused(StatusCode.DATA_LOSS):
                await found.door.grpc.read(file_id, 5, 4)

    @pytest.mark.parametrize("clean", [False, True], ids=["reset", "closed"])
    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
    async def test_that_breaks_off_never_looks_whole(self, tmp_path: Path, chunked: bool, clean: bool) -> None:
        async with scene(tmp_path) as found:
            file_id = await by_hint(found, LARGE)
            found.fake.fault(Broken(300_000, chunked=chunked, clean=clean), times=2, where=CONTENT)
            async with refused(StatusCode.DATA_LOSS):
                await found.door.grpc.read(file_id)
            with pytest.raises(httpx.TransportError):
                await found.door.rest.get(f"/v1/files/{file_id}/content")

    async def test_that_stalls_ends_in_time(self, tmp_path: Path) -> None:
        async with scene(tmp_path, idle_seconds=0.5) as found:
            file_id = await by_hint(found, LARGE)
            found.fake.fault(Stalled(300_000), times=2, where=CONTENT)
            async with refused(StatusCode.DEADLINE_EXCEEDED):
                await found.door.grpc.read(file_id)
            with pytest.raises(httpx.TransportError):
                await found.door.rest.get(f"/v1/files/{file_id}/content")

    async def test_whose_head_never_comes_ends_in_time(self, tmp_path: Path) -> None:
        async with scene(tmp_path, call_seconds=0.3) as found:
            file_id = await by_hint(found, SMALL)
            found.fake.fault(Hang(), where=CONTENT)
            refusal(await found.door.rest.get(f"/v1/files/{file_id}/content"), 504)

    @pytest.mark.parametrize("way", ["grpc", "rest"])
    async def test_that_is_read_slowly_is_not_read_ahead_and_ends_with_its_caller(
        self, tmp_path: Path, way: str
    ) -> None:
        async with scene(tmp_path, quirks=Quirks(content_bytes=128 * MIB)) as found:
            file_id = await by_hint(found, SMALL)
            if way == "grpc":
                leave = await self._begin(found, file_id)
            else:
                path = f"/v1/files/{file_id}/content"
                head = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n"
                reader, writer = await found.door.send_raw(head.encode())
                await reader.readexactly(100_000)
                leave = writer.transport.abort
            seen = await found.fake.arrival(CONTENT)
            assert await settled(seen) < 2 * AHEAD  # of 128
            assert not seen.ended.is_set()
            leave()
            await asyncio.wait_for(seen.ended.wait(), PATIENCE)
            assert seen.left

    async def _begin(self, found: Scene, file_id: str) -> Callable[[], Any]:
        client = found.door.grpc
        call = client.stub.DownloadFile(DownloadFileRequest(file_id=file_id), metadata=client.metadata)
        for _ in range(3):
            assert await call.read() is not grpc.aio.EOF
        return call.cancel


async def settled(seen: Seen) -> int:
    """How many bytes were sent, when no more are."""
    last = [-1] * 15

    async def look() -> int:
        last.append(seen.sent)
        return seen.sent

    return await until(look, lambda sent: sent > PIECE and set(last[-15:]) == {sent}, PATIENCE)


@pytest.mark.parametrize("name", ["日本 1.jsonl", 'a "b" %22.jsonl', "na\u00efve;x=1.jsonl"])
async def test_a_files_name_arrives_as_it_is(tmp_path: Path, name: str) -> None:
    async with scene(tmp_path) as at:
        await at.door.grpc.upload(INPUT, filename=name)
        (part,) = (part for seen in at.fake.requests for part in seen.parts if part.name == "file")
        written = name.replace('"', "%22")
        assert part.headers["content-disposition"] == f'form-data; name="file"; filename="{written}"'
