import asyncio
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from grpc import StatusCode
from tests.sockets import sockets

from batchyard.shim.files import MOST_PIECE, PIECE
from batchyard.shim.inbound import DRAIN_BYTES
from batchyard.v1 import ApiError, DownloadFileResponse, File, FileContentInfo, UploadFileResponse

from .conftest import FORM, Refusal, Shim, eventually, form, running_shim

CONTENT = bytes(range(256)) * 4096
FILE = ("file", CONTENT, "in.jsonl")
PURPOSE = ("purpose", "batch")


async def upload(
    shim: Shim, *parts: tuple[str, str | bytes] | tuple[str, str | bytes, str], path: str = "/v1/files", **headers: str
) -> httpx.Response:
    return await shim.client.post(path, content=form(*parts), headers={**FORM, **headers})


async def test_an_upload_with_the_file_last_is_stored(shim: Shim) -> None:
    shim.service.answer = UploadFileResponse(file=File(id="file-1", bytes=len(CONTENT)))
    answer = await upload(
        shim, PURPOSE, ("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600"), FILE
    )
    assert answer.status_code == 200
    assert answer.json()["id"] == "file-1"
    assert answer.json()["object"] == "file"
    assert shim.service.kinds == ["metadata", "data", "finish"]
    first = shim.service.uploaded[0].metadata
    assert (first.purpose, first.filename) == ("batch", "in.jsonl")
    assert (first.expires_after.anchor, first.expires_after.seconds) == ("created_at", 3600)
    assert shim.service.content == CONTENT
    assert shim.service.uploaded[-1].finish.size == len(CONTENT)


async def test_fields_after_the_file_travel_as_late_metadata(shim: Shim) -> None:
    answer = await upload(shim, FILE, PURPOSE, ("expires_after.seconds", "7200"))
    assert answer.status_code == 200
    assert shim.service.kinds == ["metadata", "data", "metadata", "finish"]
    late = shim.service.uploaded[-2].metadata
    assert (late.purpose, late.filename, late.expires_after.seconds) == ("batch", "in.jsonl", 7200)


async def test_data_travels_in_large_pieces(shim: Shim) -> None:
    await upload(shim, PURPOSE, FILE)
    sizes = [len(message.data) for message in shim.service.uploaded if message.data]
    assert min(sizes[:-1]) >= PIECE
    assert max(sizes) <= MOST_PIECE


async def test_a_chunked_form_of_any_cut_is_stored(shim: Shim) -> None:
    whole = form(PURPOSE, ("file", b"a\r\n--b0undar\r\nb", "in.jsonl"))

    async def bytewise() -> AsyncIterator[bytes]:
        for at in range(len(whole)):
            yield whole[at : at + 1]

    answer = await shim.client.post("/files", content=bytewise(), headers=FORM)
    assert answer.status_code == 200
    assert shim.service.content == b"a\r\n--b0undar\r\nb"
    assert shim.service.finished


async def test_an_empty_file_is_passed_on(shim: Shim) -> None:
    assert (await upload(shim, PURPOSE, ("file", b"", "in.jsonl"))).status_code == 200
    assert shim.service.kinds == ["metadata", "finish"]


@pytest.mark.parametrize("path", ["/files", "/v1/files", "/east/v1/files", "/east/files"])
async def test_every_form_of_the_path_uploads(shim: Shim, path: str) -> None:
    assert (await upload(shim, PURPOSE, FILE, path=path)).status_code == 200
    assert shim.service.uploaded[0].metadata.provider == ("east" if "east" in path else "")


@pytest.mark.parametrize(
    ("parts", "param", "words"),
    [
        ((FILE,), "purpose", "'purpose' is a required property"),
        ((PURPOSE,), "file", "'file' is a required property"),
        ((PURPOSE, FILE, FILE), "file", "one file"),
        ((PURPOSE, ("colour", "red"), FILE), "colour", "Unknown parameter: 'colour'."),
        ((PURPOSE, ("purpose", "fine-tune"), FILE), "purpose", "twice"),
        ((PURPOSE, FILE, ("provider", "east")), "provider", "after the file"),
        ((("provider", "east"), ("custom_llm_provider", "west"), PURPOSE, FILE), "provider", "two values"),
        ((PURPOSE, ("expires_after.anchor]", "created_at"), FILE), "expires_after.anchor]", "Unknown parameter"),
        ((PURPOSE, ("expires_after[anchor", "created_at"), FILE), "expires_after[anchor", "Unknown parameter"),
        ((PURPOSE, ("expires_after[seconds]", "soon"), FILE), "expires_after[seconds]", "expected an integer"),
        ((("purpose", "x" * 70_000), FILE), "purpose", "longer than 65536 bytes"),
        (tuple(("purpose", "batch") for _ in range(70)), None, "could not parse the form"),
        ((("purpose", b"\xff"), FILE), None, "could not parse the form"),
    ],
)
async def test_a_wrong_form_is_refused_and_nothing_is_kept(
    shim: Shim, parts: tuple[tuple[str, str]], param: str | None, words: str
) -> None:
    answer = await upload(shim, *parts)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]
    await eventually(lambda: shim.service.ended == ["broken"])


@pytest.mark.parametrize("cut", [10, 60, 400, 2000, len(CONTENT), -20, -4])
async def test_a_truncated_form_is_refused(shim: Shim, cut: int) -> None:
    answer = await shim.client.post("/v1/files", content=form(PURPOSE, FILE)[:cut], headers=FORM)
    assert answer.status_code == 400
    assert "cut off" in answer.json()["error"]["message"]
    assert not shim.service.finished


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/form-data; boundary=another",
    ],
)
async def test_a_body_that_is_no_form_is_refused(shim: Shim, content_type: str) -> None:
    headers = {"content-type": content_type}
    answer = await shim.client.post("/v1/files", content=form(PURPOSE, FILE), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not shim.service.finished


async def test_a_gigantic_part_header_is_refused(shim: Shim) -> None:
    answer = await upload(shim, PURPOSE, ("file", CONTENT, "n" * 10_000))
    assert answer.status_code == 400
    assert not shim.service.finished


async def test_an_upload_that_is_refused_at_the_door_is_answered(shim: Shim) -> None:
    shim.service.refuse_upload = Refusal(StatusCode.UNAUTHENTICATED, "No.", "UNAUTHENTICATED")
    answer = await upload(shim, PURPOSE, ("file", b"x" * 3_000_000, "in.jsonl"))
    assert answer.status_code == 401
    assert answer.json()["error"]["message"] == "No."
    assert shim.service.uploaded == []


async def test_a_refusal_comes_before_100_continue(shim: Shim) -> None:
    shim.service.refuse_upload = Refusal(StatusCode.UNAUTHENTICATED, "No.", "UNAUTHENTICATED")
    head = "POST /v1/files HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9000\r\n"
    reader, writer = await shim.send_raw(f"{head}content-type: {FORM['content-type']}\r\n\r\n".encode())
    assert b"401" in await reader.readline()
    writer.close()


async def test_a_refusal_that_meets_a_message_on_its_way_keeps_its_status(shim: Shim) -> None:
    shim.service.refuse_after = 0, Refusal(StatusCode.INVALID_ARGUMENT, "Must be .jsonl", "INVALID_ARGUMENT")
    answers = [await upload(shim, PURPOSE, FILE) for _ in range(20)]
    assert {(answer.status_code, answer.json()["error"]["message"]) for answer in answers} == {(400, "Must be .jsonl")}


async def test_an_upload_that_the_service_ends_early_gets_its_error(shim: Shim) -> None:
    shim.service.refuse_after = (PIECE, Refusal(StatusCode.INVALID_ARGUMENT, "Too large.", "TOO_LARGE"))
    answer = await upload(shim, PURPOSE, ("file", b"x" * 5_000_000, "in.jsonl"))
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "Too large."
    assert not shim.service.finished


@pytest.mark.parametrize("sent", [200, 300_000, 1_000_000])
async def test_a_client_that_leaves_breaks_the_upload(shim: Shim, sent: int) -> None:
    whole = form(PURPOSE, FILE)
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: {len(whole)}\r\n"
    head += f"content-type: {FORM['content-type']}\r\n\r\n"
    _, writer = await shim.send_raw(head.encode(), whole[:sent])
    await eventually(lambda: bool(shim.service.uploaded))
    writer.close()
    await eventually(lambda: shim.service.ended == ["broken"])
    assert not shim.service.finished


async def test_a_client_that_sends_nothing_gets_408() -> None:
    async with running_shim(idle=0.2) as shim:
        head = (
            f"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\ncontent-type: {FORM['content-type']}\r\n\r\n"
        )
        reader, writer = await shim.send_raw(head.encode())
        assert b"408" in await reader.readline()
        await eventually(lambda: shim.service.ended == ["broken"])
        writer.close()


def info(length: int, **fields: object) -> DownloadFileResponse:
    whole = {"total_size": length, "length": length, "etag": "abc", "filename": 'a "b"é.jsonl', **fields}
    return DownloadFileResponse(info=FileContentInfo(**whole))  # type: ignore[arg-type]


def data(piece: bytes) -> DownloadFileResponse:
    return DownloadFileResponse(data=piece)


async def test_a_download_carries_the_content_and_its_headers(shim: Shim) -> None:
    shim.service.messages = [info(6), data(b"abc"), data(b"def")]
    answer = await shim.client.get("/east/v1/files/file-1/content")
    assert (answer.status_code, answer.content) == (200, b"abcdef")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == "6"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"] == '"abc"'
    disposition = "attachment; filename=\"a _b__.jsonl\"; filename*=UTF-8''a%20%22b%22%C3%A9.jsonl"
    assert answer.headers["content-disposition"] == disposition
    assert (shim.service.requests[0].provider, shim.service.requests[0].file_id) == ("east", "file-1")


async def test_a_download_of_unknown_length_is_chunked(shim: Shim) -> None:
    shim.service.messages = [DownloadFileResponse(info=FileContentInfo()), data(b"abc")]
    answer = await shim.client.get("/v1/files/file-1/content")
    assert answer.content == b"abc"
    assert "content-length" not in answer.headers


@pytest.mark.parametrize(
    ("header", "offset", "limit"),
    [("bytes=1-3", 1, 3), ("bytes=2-", 2, 0), ("bytes=-2", -2, 0), ("Bytes=0-0", 0, 1)],
)
async def test_a_single_range_is_asked_for_and_answered(shim: Shim, header: str, offset: int, limit: int) -> None:
    shim.service.messages = [info(3, total_size=6, offset=1), data(b"bcd")]
    answer = await shim.client.get("/v1/files/file-1/content", headers={"range": header})
    assert (answer.status_code, answer.content) == (206, b"bcd")
    assert answer.headers["content-range"] == "bytes 1-3/6"
    assert (shim.service.requests[0].read_offset, shim.service.requests[0].read_limit) == (offset, limit)


@pytest.mark.parametrize("header", ["bytes=0-1,3-4", "bytes=", "bytes=-", "bytes=5-2", "lines=1-2", "bytes=a-b"])
async def test_a_range_that_is_not_understood_is_ignored(shim: Shim, header: str) -> None:
    shim.service.messages = [info(3), data(b"abc")]
    answer = await shim.client.get("/v1/files/file-1/content", headers={"range": header})
    assert (answer.status_code, answer.content) == (200, b"abc")
    assert shim.service.requests[0].read_offset == 0


async def test_a_range_behind_the_end_is_416(shim: Shim) -> None:
    behind = Refusal(StatusCode.OUT_OF_RANGE, "Behind.", "OUT_OF_RANGE", ApiError(message="x", param="read_offset"))
    shim.service.ranged, shim.service.messages = behind, [info(6), data(b"abcdef")]
    answer = await shim.client.get("/v1/files/file-1/content", headers={"range": "bytes=9-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */6")
    assert answer.json()["error"]["param"] is None


async def test_a_range_of_an_empty_file_is_416(shim: Shim) -> None:
    shim.service.messages = [info(0)]
    answer = await shim.client.get("/v1/files/file-1/content", headers={"range": "bytes=0-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */0"


@pytest.mark.parametrize(("tag", "status"), [('"abc"', 206), ('"old"', 200), ('W/"abc"', 200)])
async def test_if_range_decides_between_the_part_and_the_whole(shim: Shim, tag: str, status: int) -> None:
    shim.service.messages = [info(3, total_size=3), data(b"abc")]
    headers = {"range": "bytes=0-2", "if-range": tag}
    answer = await shim.client.get("/v1/files/file-1/content", headers=headers)
    assert (answer.status_code, answer.content) == (status, b"abc")
    assert shim.service.requests[-1].read_limit == (3 if status == 206 else 0)


async def test_an_error_before_the_first_byte_has_its_status(shim: Shim) -> None:
    shim.service.messages = [Refusal(StatusCode.NOT_FOUND, "No such File object: file-1", "NOT_FOUND")]
    answer = await shim.client.get("/v1/files/file-1/content")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "No such File object: file-1"


@pytest.mark.parametrize(
    "messages",
    [
        [info(6), data(b"abc"), Refusal(StatusCode.DATA_LOSS)],
        [info(6), data(b"abc")],
        [info(2), data(b"abc")],
        [DownloadFileResponse(info=FileContentInfo()), data(b"abc"), Refusal(StatusCode.DATA_LOSS)],
    ],
)
async def test_a_download_that_breaks_off_never_looks_whole(
    shim: Shim, messages: list[DownloadFileResponse | Refusal | asyncio.Event]
) -> None:
    shim.service.messages = messages
    with pytest.raises(httpx.RemoteProtocolError):
        await shim.client.get("/v1/files/file-1/content")


async def test_a_client_that_leaves_cancels_the_download(shim: Shim) -> None:
    shim.service.messages = [info(6), data(b"abc"), asyncio.Event()]
    async with shim.client.stream("GET", "/v1/files/file-1/content") as answer:
        assert await anext(answer.aiter_bytes()) == b"abc"
    await eventually(lambda: shim.service.ended == ["download"])


async def test_a_service_that_stalls_breaks_the_download() -> None:
    async with running_shim(idle=0.2) as shim:
        shim.service.messages = [info(6), data(b"abc"), asyncio.Event()]
        with pytest.raises(httpx.RemoteProtocolError):
            await shim.client.get("/v1/files/file-1/content")


REFUSED = Refusal(StatusCode.UNAUTHENTICATED, "No.", "UNAUTHENTICATED")


def upload_head(length: int) -> bytes:
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n"
    return f"{head}content-type: {FORM['content-type']}\r\n\r\n".encode()


@pytest.mark.parametrize("sent", [100, DRAIN_BYTES])
async def test_a_refused_upload_is_drained_within_bounds_and_its_connection_closed(sent: int) -> None:
    """In time where the client sends no more, in size where time does not end it."""
    async with running_shim(drain=0.1 if sent == 100 else 3600, idle=3600) as shim, asyncio.timeout(30):
        shim.service.refuse_upload = REFUSED
        reader, writer = await shim.send_raw(upload_head(2 * DRAIN_BYTES), b"x" * sent)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nconnection: close\r\n" in answer
        writer.close()


@pytest.mark.parametrize("where", ["door", "data", "answer"])
async def test_a_service_that_stalls_ends_the_upload_with_504(where: str) -> None:
    async with running_shim(deadline=0.3, idle=0.3 if where == "data" else 3600, drain=0.1) as shim:
        shim.service.hold_upload = where
        async with asyncio.timeout(20):
            answer = await upload(shim, PURPOSE, ("file", CONTENT * 8, "in.jsonl"))
        assert answer.status_code == 504
        assert answer.json()["error"]["message"] == "The service did not answer in time."


async def test_a_client_that_stops_reading_is_cut_off_and_it_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running_shim(idle=0.2) as shim:
        await shim.client.get("/health/readiness")  # opens the channel
        before = sockets()
        shim.service.messages = [DownloadFileResponse(info=FileContentInfo()), *[data(CONTENT)] * 64]
        _, writer = await shim.send_raw(b"GET /v1/files/f/content HTTP/1.1\r\nhost: x\r\nx-request-id: slow-1\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: shim.service.ended == ["download"])
        await eventually(lambda: sockets() <= before + 1)  # the client's own
        writer.close()
    (line,) = [vars(record) for record in caplog.records if vars(record).get("request_id") == "slow-1"]
    assert (line["status"], line["levelname"]) == (499, "INFO")
    ours = [record for record in caplog.records if not record.name.startswith("grpc")]  # that is the fake service's
    assert [record for record in ours if record.levelno >= logging.WARNING] == []


async def test_a_service_that_breaks_a_download_is_one_error_with_its_request(caplog: pytest.LogCaptureFixture) -> None:
    async with running_shim() as shim:
        shim.service.messages = [info(6), data(b"abc"), Refusal(StatusCode.DATA_LOSS)]
        with pytest.raises(httpx.RemoteProtocolError):
            await shim.client.get("/v1/files/file-1/content", headers={"x-request-id": "broken-1"})
    ours = [record for record in caplog.records if not record.name.startswith("grpc")]
    (line,) = [vars(record) for record in ours if record.levelno >= logging.WARNING]
    assert (line["levelname"], line["request_id"], line["code"]) == ("ERROR", "broken-1", "DATA_LOSS")
