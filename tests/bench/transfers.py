"""Uploads and downloads of a large file, REST and gRPC, against a direct copy; and what memory they take."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import perf_counter

import aiohttp
import grpc
from tests.bench.controls import BLOCK
from tests.bench.measure import Figure, Growth, Round, compared
from tests.harness import KEY, Client
from tests.processes import Process, batchyard, configure, process

from batchyard.v1 import DownloadFileRequest

LINE_BYTES = 700
_COPY = ("tests.bench.controls", "copy")
_MANY_LINES = {"max_batch_lines": 1_000_000}
_BOUNDARY = "bench-boundary"
_FORM_HEAD = (
    f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="input.jsonl"\r\n'
    "content-type: application/jsonl\r\n\r\n"
).encode()
_FORM_TAIL = f"\r\n--{_BOUNDARY}--\r\n".encode()


async def figures(folder: Path, rounds: int, size: int) -> tuple[list[Figure], list[Growth]]:
    """Moves a batch input of `size` bytes up and down, `rounds` times each way."""
    data = content(size)
    configure(folder, _MANY_LINES, echo=True)
    with batchyard(folder) as service, process(folder / "copy.log", *_COPY, str(folder / "copy")) as control:
        address = f"127.0.0.1:{await service.port()}"
        with batchyard(folder, "shim", "--service", address) as shim:
            base = f"http://127.0.0.1:{await shim.port('REST on')}/v1/files"
            copy = Copy(await control.port("copy on"), data)
            async with grpc.aio.insecure_channel(address) as channel, aiohttp.ClientSession() as session:
                await Client(channel).upload(data[: 1000 * LINE_BYTES])  # what a first call of any size loads
                both = {"service": service, "shim": shim}
                rest = await _measured("REST", rounds, RestFiles(session, base, data), copy, both)
                direct = await _measured("gRPC", rounds, GrpcFiles(Client(channel), data), copy, {"service": service})
                return rest[0] + direct[0], rest[1] + direct[1]


def content(size: int) -> bytes:
    """A batch input of whole lines of LINE_BYTES each, of `size` bytes at most."""
    line = (
        '{"custom_id":"request-%08d","method":"POST","url":"/v1/chat/completions",'
        '"body":{"model":"bench","messages":[{"role":"user","content":"%s"}]}}\n'
    )
    filler = "x" * (LINE_BYTES - len(line % (0, "")))
    return b"".join((line % (number, filler)).encode() for number in range(size // LINE_BYTES))


class Copy:
    """The direct copy: a plain socket on one side, a synced file on the other."""

    def __init__(self, port: int, data: bytes) -> None:
        self.size = len(data)
        self._port = port
        self._data = data

    async def upload(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"w")
        for start in range(0, len(self._data), BLOCK):
            writer.write(self._data[start : start + BLOCK])
            await writer.drain()
        writer.write_eof()
        assert await reader.readexactly(1) == b"!"
        writer.close()
        await writer.wait_closed()

    async def download(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=BLOCK)
        writer.write(b"r")
        left = len(self._data)
        while piece := await reader.read(BLOCK):
            left -= len(piece)
        assert left == 0
        writer.close()
        await writer.wait_closed()


class GrpcFiles:
    """Transfers by the stub. `download` reads what `upload` wrote last."""

    def __init__(self, client: Client, data: bytes) -> None:
        self._client = client
        self._data = data
        self._file_id = ""

    async def upload(self) -> None:
        self._file_id = (await self._client.upload(self._data)).id

    async def download(self) -> None:
        left = len(self._data)
        request = DownloadFileRequest(file_id=self._file_id)
        async for message in self._client.stub.DownloadFile(request, metadata=self._client.metadata):
            left -= len(message.data)
        assert left == 0


class RestFiles:
    """Transfers by a streamed form and a streamed answer. `download` reads what `upload` wrote last."""

    def __init__(self, session: aiohttp.ClientSession, base: str, data: bytes, key: str = KEY) -> None:
        self._session = session
        self._base = base
        self._data = data
        self._file_id = ""
        self._key = {"authorization": f"Bearer {key}"}

    async def upload(self) -> None:
        headers = self._key | {
            "content-type": f"multipart/form-data; boundary={_BOUNDARY}",
            "content-length": str(len(_FORM_HEAD) + len(self._data) + len(_FORM_TAIL)),
        }
        async with self._session.post(self._base, data=self._form(), headers=headers) as response:
            assert response.status == 200, await response.text()
            self._file_id = (await response.json())["id"]

    async def download(self) -> None:
        left = len(self._data)
        async with self._session.get(f"{self._base}/{self._file_id}/content", headers=self._key) as response:
            async for piece in response.content.iter_any():
                left -= len(piece)
        assert left == 0

    async def _form(self) -> AsyncIterator[bytes]:
        yield _FORM_HEAD
        for start in range(0, len(self._data), BLOCK):
            yield self._data[start : start + BLOCK]
        yield _FORM_TAIL


async def _measured(
    name: str, rounds: int, files: GrpcFiles | RestFiles, copy: Copy, watched: dict[str, Process]
) -> tuple[list[Figure], list[Growth]]:
    """Both directions of one way of transferring; the memory of all processes is watched meanwhile."""
    figures, growths = [], []
    for way, ours, control in (("upload", files.upload, copy.upload), ("download", files.download, copy.download)):
        for one in watched.values():
            one.forget_peak()
        before = {process: one.peak_bytes() for process, one in watched.items()}
        figures.append(await compared(f"{name} {way}", "MB/s", rounds, rate(ours, copy.size), rate(control, copy.size)))
        growths += [Growth(f"{name} {way}", who, one.peak_bytes() - before[who]) for who, one in watched.items()]
    return figures, growths


def rate(transfer: Callable[[], Awaitable[None]], size: int) -> Round:
    """Measures a transfer of `size` bytes, in MB/s."""

    async def measure() -> float:
        start = perf_counter()
        await transfer()
        return size / 1e6 / (perf_counter() - start)

    return measure
