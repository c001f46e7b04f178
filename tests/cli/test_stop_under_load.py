"""SIGTERM to `batchyard serve` with everything under way: nothing is lost, and every client learns where it stands."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
from tests.harness import KEY, PATIENCE, Client, chat_lines, jsonl, until
from tests.processes import Process, batchyard, configure

from batchyard.v1 import (
    BatchStatus,
    DownloadFileRequest,
    DownloadFileResponse,
    File,
    ListFilesRequest,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
    UploadFileResponse,
    WatchBatchRequest,
    WatchBatchResponse,
)

DRAIN_SECONDS = 4
LINES = 2000
HALF = 1 << 20
LARGE = 48 << 20  # bytes of a file, more than connections hold while their clients read nothing
MARKS = f"Host: localhost\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n"
FORM_HEAD = (
    b'--frontier\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--frontier\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
)
FORM_TAIL = b"\r\n--frontier--\r\n"

Upload = grpc.aio.StreamUnaryCall[UploadFileRequest, UploadFileResponse]
Download = grpc.aio.UnaryStreamCall[DownloadFileRequest, DownloadFileResponse]
Watch = grpc.aio.UnaryStreamCall[WatchBatchRequest, WatchBatchResponse]


class Doors(NamedTuple):
    """A started process, its REST port, and a client of its gRPC port."""

    process: Process
    rest: int
    client: Client


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Doors]:
    with batchyard(folder, "serve") as process:
        rest, target = await process.port("REST on"), f"127.0.0.1:{await process.port('gRPC on')}"
        async with grpc.aio.insecure_channel(target) as channel:
            yield Doors(process, rest, Client(channel))


class RestCall:
    """A REST request on a connection of its own, written and read piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def begun(cls, port: int, head: str, body: bytes = b"") -> "RestCall":
        call = cls(*await asyncio.open_connection("127.0.0.1", port))
        await call.send(f"{head}\r\n{MARKS}\r\n".encode() + body)
        return call

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def status(self) -> int:
        """The answer's status; 0 where the connection ended without one. The body is to be read next."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return 0
        return int(head.split()[1])

    async def rest(self) -> bytes:
        body = await self._reader.read()
        self._writer.close()
        return body


async def rest_upload(port: int) -> RestCall:
    """An upload of 2 * HALF bytes, of which one half was sent."""
    size = len(FORM_HEAD) + 2 * HALF + len(FORM_TAIL)
    head = f"POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=frontier\r\nContent-Length: {size}"
    return await RestCall.begun(port, head, FORM_HEAD + b"a" * HALF)


async def grpc_upload(client: Client) -> Upload:
    """The same over gRPC."""
    call: Upload = client.stub.UploadFile(metadata=client.metadata)
    await call.write(UploadFileRequest(metadata=UploadFileMetadata(purpose="user_data", filename="a.txt")))
    await call.write(UploadFileRequest(data=b"a" * HALF))
    await call.initial_metadata()
    return call


async def finished(call: Upload) -> File:
    await call.write(UploadFileRequest(data=b"b" * HALF))
    await call.write(UploadFileRequest(finish=UploadFileFinish(size=2 * HALF)))
    await call.done_writing()
    return (await call).file


async def downloaded(call: Download) -> int:
    """How many bytes are left in a download that ends well."""
    size = 0
    while isinstance(message := await call.read(), DownloadFileResponse):
        size += len(message.data)
    return size


async def last_code(watch: Watch) -> grpc.StatusCode:
    """How a watch ends."""
    try:
        async for _ in watch:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def being_written(folder: Path, count: int) -> None:
    """Returns when so many uploads are in the store."""

    async def seen() -> int:
        return len([path for path in (folder / "data/store/files").iterdir() if "#" in path.name])

    await until(seen, lambda found: found == count)


async def test_what_runs_is_finished_and_the_rest_goes_on_after_a_restart(tmp_path: Path) -> None:
    configure(tmp_path, echo=True, echo_delay_ms=20, max_concurrency=8, chunk_lines=100)
    settings = json.loads((tmp_path / "config.yaml").read_text())
    settings["batchyard"]["drain_seconds"] = DRAIN_SECONDS
    (tmp_path / "config.yaml").write_text(json.dumps(settings))

    async with asyncio.timeout(2 * PATIENCE), served(tmp_path) as (process, rest, client):
        large = await client.upload(bytes(LARGE), purpose="user_data")
        source = await client.upload(jsonl(chat_lines(LINES)))
        batch = await client.create(source.id)
        watch: Watch = client.stub.WatchBatch(WatchBatchRequest(batch_id=batch.id), metadata=client.metadata)
        reading: Download = client.stub.DownloadFile(DownloadFileRequest(file_id=large.id), metadata=client.metadata)
        reading_rest = await RestCall.begun(rest, f"GET /v1/files/{large.id}/content HTTP/1.1")
        upload, upload_rest = await grpc_upload(client), await rest_upload(rest)
        endless, endless_rest = await grpc_upload(client), await rest_upload(rest)
        await reading.read()
        assert await reading_rest.status() == 200
        await being_written(tmp_path, 4)
        await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed > 100)

        process.terminate()
        assert await last_code(watch) is grpc.StatusCode.UNAVAILABLE
        assert await downloaded(reading) == LARGE
        assert len(await reading_rest.rest()) == LARGE
        kept = [(await finished(upload)).id]
        await upload_rest.send(b"b" * HALF + FORM_TAIL)
        assert await upload_rest.status() == 200
        kept.append(json.loads(await upload_rest.rest())["id"])
        assert await endless.code() is grpc.StatusCode.UNAVAILABLE
        assert await endless_rest.status() in {0, 503}
        await endless_rest.rest()
        assert await process.ended() == 0

    async with asyncio.timeout(2 * PATIENCE), served(tmp_path) as (process, rest, client):
        ended = await client.ended(batch.id)
        assert ended.status == BatchStatus.BATCH_STATUS_COMPLETED
        results = await client.results(ended.output_file_id)
        assert [line["custom_id"] for line in results] == [f"request-{number}" for number in range(LINES)]
        assert not ended.HasField("error_file_id")
        for file_id in kept:
            assert await client.read(file_id) == b"a" * HALF + b"b" * HALF
        listed = await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)
        assert {file.id for file in listed.data} == {large.id, source.id, *kept, ended.output_file_id}
        assert {path.name for path in (tmp_path / "data/store/files").iterdir()} == {large.id, source.id, *kept}
        assert not list((tmp_path / "data/work").iterdir())
        process.terminate()
        assert await process.ended() == 0
