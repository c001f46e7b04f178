"""Inputs of any kind at both doors of a running Batchyard for as long as is asked, while another process watches it.

No answer may be a fault of ours, no health check may wait, and memory stays within its bounds. Each input is drawn from
the seed, the sender and the number of the input, all of which a fault names.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from subprocess import PIPE
from sys import executable
from time import monotonic
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.message import Message
from tests.adversary import MIB, Adversary
from tests.harness import KEY, Client, chat_lines, jsonl
from tests.leaks import resident_bytes
from tests.processes import ROOT, Process, batchyard, configure

from batchyard.admin.v1 import admin_service_pb2
from batchyard.v1 import (
    DeleteFileRequest,
    ListFilesRequest,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
    batch_service_pb2,
)

SENDERS = 3
MOST_PEAK, MOST_GROWTH = 160 * MIB, 48 * MIB
ANSWER_SECONDS = 60.0
_WARM_SECONDS = 60.0
_SAMPLE_SECONDS = 0.5
_PIECE = 256 << 10
_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
}
_BATCHES = batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"]
_ADMIN = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]
_METHODS = [method for one in (_BATCHES, _ADMIN) for method in one.methods if not method.client_streaming]
_GOOD = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
_CREATION = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after", "provider")
_PATHS = (
    "/files",
    "/files/{}",
    "/files/{}/content",
    "/batches",
    "/batches/{}",
    "/batches/{}/cancel",
    "/batches/{}/events",
)
_PREFIXES = ("/v1", "", "/local/v1", "/nowhere/v1", "/azure/v1", "/openai", "/openai/v1", "/azure/openai")
_BOUNDARY = b"0123storm"


@dataclass
class Report:
    """What a storm came to; memory in bytes over what was resident when the first minute had passed."""

    seed: int
    inputs: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    probes: int = 0
    slowest: float = 0.0
    stalls: list[str] = field(default_factory=list)
    peak: int = 0
    growth: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        answers = ", ".join(f"{name} x{count}" for name, count in sorted(self.answers.items()))
        return (
            f"seed {self.seed}: {self.inputs.total()} inputs ({answers}); {self.probes} health checks, the slowest "
            f"{self.slowest * 1000:.0f} ms, {len(self.stalls)} stalls; memory {self.growth / MIB:+.1f} MiB, at most "
            f"{self.peak / MIB:+.1f}; {len(self.faults)} faults"
        )


async def storm(folder: Path, seed: int, seconds: float, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Sends for that long, after a minute at most that fills what is filled once and isn't held against the memory."""
    report = Report(seed)
    configure(folder, echo=True)
    with batchyard(folder, "serve") as server:
        async with AsyncExitStack() as stack:
            port, target = await server.port("REST on"), f"127.0.0.1:{await server.port()}"
            senders = [
                Sender(report, seed, number, port, Client(await stack.enter_async_context(_channel(target))))
                for number in range(SENDERS)
            ]
            await senders[0].furnish()
            probed = await stack.enter_async_context(_probed(port, report))
            warm = min(_WARM_SECONDS, seconds / 4)
            await asyncio.gather(*(sender.send(monotonic() + warm) for sender in senders))
            before = resident_bytes(server.pid)
            async with _sampled(server, report, before):
                end = monotonic() + seconds - warm
                await asyncio.gather(_told(report, end, tell), *(sender.send(end) for sender in senders))
            await asyncio.gather(*(sender.tidy() for sender in senders))
            await probed()
            report.growth = resident_bytes(server.pid) - before
        _judge(report, server.log.read_text())
    return report


def _judge(report: Report, log: str) -> None:
    report.faults += [
        f"the log has: {line[:300]}" for line in log.splitlines() if "Traceback" in line or " ERROR " in line
    ]
    for name, grown, most in (("at its peak", report.peak, MOST_PEAK), ("at the end", report.growth, MOST_GROWTH)):
        if grown > most:
            report.faults.append(f"holds {grown / MIB:.1f} MiB more {name}")


def _channel(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


async def _told(report: Report, end: float, tell: Callable[[str], None]) -> None:
    known = 0
    while (left := end - monotonic()) > 0:
        await asyncio.sleep(min(60.0, left))
        for fault in report.faults[known:]:
            tell(fault)
        known = len(report.faults)
        tell(str(report))


@asynccontextmanager
async def _sampled(server: Process, report: Report, before: int) -> AsyncIterator[None]:
    async def look() -> None:
        while True:
            report.peak = max(report.peak, resident_bytes(server.pid) - before)
            await asyncio.sleep(_SAMPLE_SECONDS)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def _probed(port: int, report: Report) -> AsyncIterator[Callable[[], Any]]:
    """Runs the health probe; what it yields ends the probe and enters what it found."""
    command = (executable, "-m", "tests.health_probe", str(port))
    probe = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE)

    async def ended() -> None:
        out, err = await probe.communicate(b"")
        if probe.returncode:
            report.faults.append(f"the health probe ended: {err.decode()[-500:]}")
            return
        found = json.loads(out)
        report.probes, report.slowest = found["probes"], found["slowest"]
        report.stalls = [f"a health check took {took * 1000:.0f} ms at {at:.0f}" for at, took in found["stalls"]]

    try:
        yield ended
    finally:
        if probe.returncode is None:
            probe.kill()
            await probe.wait()


class Sender:
    """One caller of both doors. Each `send_*` is one kind of input."""

    def __init__(self, report: Report, seed: int, number: int, port: int, client: Client) -> None:
        self._report = report
        self._seed = seed
        self._number = number
        self._port = port
        self._client = client
        self._sent = 0
        self._draw = Adversary(Random())
        self._last = b""

    async def furnish(self) -> None:
        """A file and a batch that are there."""
        file = await self._client.upload(jsonl(chat_lines(3)))
        await self._client.ended((await self._client.create(file.id)).id)

    async def send(self, end: float) -> None:
        kinds = [
            self.send_rpc,
            self.send_creation,
            self.send_request,
            self.send_bytes,
            self.send_form,
            self.send_stream,
        ]
        while monotonic() < end:
            self._sent += 1
            self._draw = Adversary(Random(f"{self._seed} {self._number} {self._sent}"))
            kind = self._draw.random.choice(kinds)
            self._report.inputs[kind.__name__] += 1
            self._last = b""
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await kind()
            except (ConnectionError, asyncio.IncompleteReadError):
                self._report.answers["closed"] += 1
            except Exception as error:  # one input's, and the storm goes on
                self._fault(f"{kind.__name__}: {error!r}")
            if self._sent % 50 == 0:
                await self.tidy()

    async def tidy(self) -> None:
        """Deletes the files that are there; those that a running batch reads stay until later."""
        stub, metadata = self._client.stub, self._client.metadata
        for file in (await stub.ListFiles(ListFilesRequest(limit=100), metadata=metadata, timeout=ANSWER_SECONDS)).data:
            try:
                await stub.DeleteFile(DeleteFileRequest(file_id=file.id), metadata=metadata, timeout=ANSWER_SECONDS)
            except grpc.aio.AioRpcError as error:
                self._entered(error.code())

    async def send_rpc(self) -> None:
        """Any call of either service but an upload, with any values."""
        rpc = self._draw.random.choice(_METHODS)
        message = self._draw.message(rpc.input_type, {**_GOOD, **await self._known()})
        stub = self._client.stub if rpc.containing_service is _BATCHES else self._client.admin
        await self._called(
            getattr(stub, rpc.name)(message, metadata=self._metadata(), timeout=ANSWER_SECONDS / 2), rpc, message
        )

    async def send_creation(self) -> None:
        known = await self._known()
        body = self._draw.object_of({**_GOOD, "input_file_id": known["file_id"]}, _CREATION)
        self._last = body
        await self._asked("POST", "/v1/batches", [(b"content-type", b"application/json")], body)

    async def send_request(self) -> None:
        """Any path with any names and query."""
        known = await self._known()
        random = self._draw.random
        path = random.choice(_PREFIXES) + random.choice(_PATHS)
        name = random.choice((known["file_id"], known["batch_id"], quote(self._draw.text()[:2000], safe="")))
        query = "&".join(
            f"{random.choice(('limit', 'after', 'order', 'purpose', 'provider', 'model', 'api-version', 'x'))}="
            + quote(str(self._draw.one(self._draw.text, self._draw.number))[:1000])
            for _ in range(random.choice((0, 0, 1, 3)))
        )
        verb = random.choice(("GET", "GET", "GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS"))
        span = random.choice(
            ("bytes=0-0", "bytes=-1", "bytes=99999999999999999999-", "bytes=5-2", "x", "bytes=0-0,2-3")
        )
        headers = [(b"range", span.encode())] if random.random() < 0.3 else []
        await self._asked(verb, path.format(name) + ("?" + query if query else ""), headers)

    async def send_bytes(self) -> None:
        """A request in which anything may stand anywhere, its framing too, in pieces."""
        known = await self._known()
        body = json.dumps({**_GOOD, "input_file_id": known["file_id"]}).encode()
        verb = b"POST /v1/batches" if self._draw.random.random() < 0.5 else b"GET /v1/batches?limit=1"
        good = self._head(verb, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]) + body
        raw = self._draw.mutated(self._draw.mutated(good))
        at = self._draw.random.randint(0, len(raw))
        await self._exchanged([raw[:at], raw[at:]], patience=1.0)

    async def send_form(self) -> None:
        """An upload as a form: of any file, and at times of any form."""
        content = self._draw.batch_file()
        purpose, name = self._draw.random.choice((b"batch", b"batch", b"user_data", b"x")), b"a.jsonl"
        parts = [(b'name="purpose"', purpose), (b'name="file"; filename="%s"' % name, content)]
        body = b"".join(
            b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (_BOUNDARY, *part) for part in parts
        )
        body += b"--%s--\r\n" % _BOUNDARY
        if len(body) < MIB and self._draw.random.random() < 0.3:
            body = self._draw.mutated(body)
        await self._asked("POST", "/v1/files", [(b"content-type", b"multipart/form-data; boundary=" + _BOUNDARY)], body)

    async def send_stream(self) -> None:
        """An upload over gRPC: of any file, and at times of any messages; a good one's batch runs."""
        content = self._draw.batch_file()
        metadata = UploadFileMetadata(purpose="batch", filename="a.jsonl")
        messages: list[Any] = [UploadFileRequest(metadata=metadata)]
        messages += [UploadFileRequest(data=content[at : at + _PIECE]) for at in range(0, len(content), _PIECE)]
        messages.append(UploadFileRequest(finish=UploadFileFinish(size=len(content))))
        if self._draw.random.random() < 0.3:
            at = self._draw.random.randrange(len(messages))
            messages[at:at] = [self._draw.message(UploadFileRequest.DESCRIPTOR, {})]
        call = self._client.stub.UploadFile(iter(messages), metadata=self._metadata(), timeout=ANSWER_SECONDS)
        try:
            file = (await call).file
        except grpc.aio.AioRpcError:
            self._entered(await call.code())
            return
        self._entered(grpc.StatusCode.OK)
        await self._client.create(file.id)

    async def _called(self, call: Any, rpc: Any, message: Message) -> None:
        self._last = f"{rpc.name} {str(message)[:400]}".encode()
        try:
            if rpc.server_streaming:
                count = 0
                async for _ in call:
                    count += 1
                    if count == 3:
                        call.cancel()
            else:
                await call
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            if (task := asyncio.current_task()) and task.cancelling():
                raise
        self._entered(await call.code())

    async def _asked(self, verb: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
        if body:
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        head = self._head(f"{verb} {path}".encode(), headers)
        self._last = head + body[:400]
        await self._exchanged([head, *(body[at : at + _PIECE] for at in range(0, len(body), _PIECE))])

    def _head(self, first: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
        fixed = [(b"host", b"x"), (b"connection", b"close"), (b"authorization", b"Bearer " + KEY.encode())]
        lines = b"".join(b"%s: %s\r\n" % header for header in (*fixed, *headers))
        return first + b" HTTP/1.1\r\n" + lines + b"\r\n"

    async def _exchanged(self, pieces: list[bytes], patience: float = ANSWER_SECONDS) -> None:
        """Sends the pieces on a connection of their own, and enters the status of the answer.

        Where nothing comes for `patience` seconds this side leaves: the input may be no whole request.
        """
        self._last = self._last or b"".join(pieces)[:800]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            sending = asyncio.create_task(self._written(writer, pieces))
            try:
                async with asyncio.timeout(patience):
                    status = await reader.readline()
                self._answered(status)
                async with asyncio.timeout(2.0):
                    while await reader.read(1 << 16):
                        pass
            except TimeoutError:
                self._report.answers["waiting"] += 1
                if patience == ANSWER_SECONDS and "status" not in locals():
                    self._fault("no answer")
            finally:
                sending.cancel()
                await asyncio.wait([sending])
        finally:
            writer.transport.abort()

    @staticmethod
    async def _written(writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    def _answered(self, line: bytes) -> None:
        if not line:
            self._report.answers["closed"] += 1
            return
        status = line.split(b" ")[1].decode() if line.count(b" ") else "?"
        self._report.answers[status] += 1
        if not status.isdigit() or int(status) in {500, 502, 504} or not 100 <= int(status) < 600:
            self._fault(f"answered {line!r}")

    def _entered(self, code: grpc.StatusCode) -> None:
        self._report.answers[code.name] += 1
        if code in _FAULTS:
            self._fault(f"answered {code.name}")

    def _fault(self, text: str) -> None:
        self._report.faults.append(f"sender {self._number}, input {self._sent}: {text}; sent {self._last[:800]!r}")

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        random = self._draw.random
        extra = (
            (("idempotency-key", random.choice(("k", "k ", "x" * 300, "~!", " "))),) if random.random() < 0.1 else ()
        )
        return (*self._client.metadata, *extra)

    async def _known(self) -> dict[str, str]:
        """The id of a file and of a batch of this caller; either may be none."""
        stub, metadata = self._client.stub, self._client.metadata
        files = (await stub.ListFiles(ListFilesRequest(limit=1), metadata=metadata)).data
        batches = (await stub.ListBatches(batch_service_pb2.ListBatchesRequest(limit=1), metadata=metadata)).data
        found = {
            "file_id": files[0].id if files else "file-none",
            "batch_id": batches[0].id if batches else "batch_none",
        }
        return {**found, "input_file_id": found["file_id"]}
