"""Sends bad inputs over real sockets, and checks the answers and that nothing else has changed."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from starlette.responses import Response
from tests.bad_input.model import Case, Failed, Fine, Http, Input, Outcome, Raw, Refused, Rpc, Send
from tests.fakes import Gate, completion, fake_endpoint
from tests.harness import PATIENCE, Client, chat_line, chat_lines, jsonl, plain_client, until, upload_messages
from tests.rest.conftest import FORM, form, opened, refusal
from tests.statuses import told

from batchyard.service.config.settings import LocalSettings
from batchyard.shim.transcoding import SERVICE
from batchyard.v1 import (
    Batch,
    BatchStatus,
    CreateBatchResponse,
    DeleteFileRequest,
    File,
    ListBatchesRequest,
    ListFilesRequest,
    ListFilesResponse,
    UploadFileMetadata,
    UploadFileResponse,
)

EARLIER = b"{}"
INPUT_NAME = "input.jsonl"


class Seen(NamedTuple):
    """All that the tenant has, and the names of everything that lies in the store."""

    files: list[File]
    batches: list[Batch]
    stored: list[str]

    def without(self, made: set[str]) -> "Seen":
        """The same, but for what belongs to these ids."""
        return Seen(
            [file for file in self.files if file.id not in made],
            [batch for batch in self.batches if batch.id not in made],
            [name for name in self.stored if name.split(".")[0] not in made],
        )


@dataclass
class Bench:
    """A running front door, and what is there already: `things` are ids by the name that a case gives them."""

    port: int
    rest: httpx.AsyncClient
    channel: grpc.Channel
    client: Client
    store: Path
    things: dict[str, str]

    def fill(self, text: str) -> str:
        for name, value in self.things.items():
            text = text.replace(f"${name}", value)
        return text

    async def ask(self, send: Http | Raw) -> httpx.Response:
        """REST's answer."""
        if isinstance(send, Raw):
            return await self._ask_raw(send.data)
        headers = dict(send.headers) | ({"authorization": f"Bearer {send.key}"} if send.key else {})
        content = self.fill(send.content.decode("latin-1")).encode("latin-1")
        return await self.rest.request(send.verb, self.fill(send.path), content=content, headers=headers)

    async def call(self, rpc: Rpc) -> list[bytes]:
        """What an RPC answers, message by message. Raises grpc.RpcError."""
        # Not over grpc.aio, whose client forgets a status that comes while it sends.
        return await asyncio.to_thread(self._call, rpc)

    async def look(self) -> Seen:
        return Seen(
            await _all(self.client, self.client.stub.ListFiles, ListFilesRequest(limit=10_000)),
            await _all(self.client, self.client.stub.ListBatches, ListBatchesRequest(limit=100)),
            sorted(path.name for path in self.store.rglob("*") if path.is_file()),
        )

    async def _ask_raw(self, data: bytes) -> httpx.Response:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(PATIENCE):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                headers = dict(line.split(": ", 1) for line in head[1:-1])
                body = await reader.readexactly(int(headers["content-length"]))
        finally:
            writer.close()
        return httpx.Response(int(head[0].split()[1]), headers=headers, content=body)

    def _call(self, rpc: Rpc) -> list[bytes]:
        channel: Any = self.channel
        path, over = f"/{SERVICE.full_name}/{rpc.name}", threading.Event()
        messages = [self._written(message) for message in rpc.messages]
        options: Any = {"metadata": (("authorization", f"Bearer {rpc.key}"),) if rpc.key else (), "timeout": 60}
        method = SERVICE.methods_by_name.get(rpc.name)
        try:
            if method and method.client_streaming:
                stream = _stream(messages, over if rpc.open else None)
                return [channel.stream_unary(path)(stream, **options)]
            if method and method.server_streaming:
                return list(channel.unary_stream(path)(messages[0], **options))
            return [channel.unary_unary(path)(messages[0], **options)]
        finally:
            over.set()

    def _written(self, message: Message | bytes) -> bytes:
        if isinstance(message, bytes):
            return message
        copy = type(message).FromString(message.SerializeToString())
        for field, value in message.ListFields():
            if isinstance(value, str):
                setattr(copy, field.name, self.fill(value))
        return copy.SerializeToString()


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    """A front door with a little of everything in it, among it a batch that runs for as long as this is open."""
    gate = Gate()

    async def holding(body: dict[str, Any], _: int) -> Response:
        if body["messages"][-1]["content"] == "hold":
            await gate.passed()
        return completion(body)

    async with fake_endpoint(holding) as fake, opened(folder, local=LocalSettings(api_base=fake.api_base)) as door:
        try:
            async with joined(door.port, door.server.grpc_port, door.grpc, door.store) as found:
                found.things |= await _furnished(door.grpc)
                yield found
        finally:
            gate.open()


@asynccontextmanager
async def joined(port: int, grpc_port: int, client: Client, store: Path) -> AsyncIterator[Bench]:
    """A bench at a front door that runs already, with one `$earlier` file."""
    earlier = await client.upload(EARLIER, purpose="user_data")
    base = f"http://127.0.0.1:{port}"
    async with plain_client(base_url=base, timeout=60) as rest:
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            yield Bench(port, rest, channel, client, store, {"earlier": earlier.id})


async def prove(bench: Bench, case: Case, send: Send, surface: str) -> None:
    """Sends a case in one way; fails where the answer is another, or anything of the tenant's is lost or left."""
    try:
        await _prove(bench, case.outcome, send, surface)
    except Exception as error:
        error.add_note(f"{case.title}, over {surface}: {str(send)[:300]}")
        raise


async def _prove(bench: Bench, outcome: Outcome, send: Send, surface: str) -> None:
    before = await bench.look()
    if isinstance(send, Input):
        made = await _prove_input(bench, outcome, send, surface)
    elif isinstance(outcome, Refused):
        made = await _prove_refused(bench, outcome, send)
    elif isinstance(outcome, Failed):
        made = await _prove_batch(bench, outcome, await _made(bench, send))
    else:
        made = await _prove_page(bench, outcome, send)
    await until(bench.look, lambda seen: seen.without(made) == before)
    assert await bench.client.read(bench.things["earlier"]) == EARLIER


async def _prove_refused(bench: Bench, outcome: Refused, send: Send) -> set[str]:
    if isinstance(send, Http | Raw):
        _assert_envelope(bench, outcome, await bench.ask(send))
    elif isinstance(send, Rpc):
        with pytest.raises(grpc.RpcError) as raised:
            await bench.call(send)
        _assert_status(bench, outcome, raised.value)
    return set()


def _assert_envelope(bench: Bench, outcome: Refused, answer: httpx.Response) -> None:
    assert refusal(answer, outcome.status) == {
        "message": bench.fill(outcome.message), "type": outcome.type, "param": outcome.param, "code": outcome.code,
    }  # fmt: skip
    notable = ("x-should-retry", "retry-after", "allow", "content-range")
    assert {name: answer.headers[name] for name in notable if name in answer.headers} == outcome.headers


def _assert_status(bench: Bench, outcome: Refused, error: Any) -> None:
    assert error.code() is outcome.grpc
    if outcome.reason is None:
        assert outcome.message in error.details()
        return
    found = told(error)
    assert found.message == bench.fill(outcome.message)
    assert (found.reason, found.type, found.param, found.code) == (
        outcome.reason, outcome.type, outcome.param, outcome.code,
    )  # fmt: skip


async def _prove_input(bench: Bench, outcome: Outcome, given: Input, surface: str) -> set[str]:
    content = given.content if isinstance(given.content, bytes) else given.content()
    metadata = UploadFileMetadata(purpose="batch", filename=INPUT_NAME)
    rest = Http("POST", "/v1/files", form(("purpose", "batch"), ("file", content, INPUT_NAME)), FORM)
    upload = rest if surface == "REST" else Rpc("UploadFile", list(upload_messages(content, metadata)))
    if isinstance(outcome, Refused):
        return await _prove_refused(bench, outcome, upload)
    file_id = await _made(bench, upload)
    assert await bench.client.read(file_id) == content
    batch = await bench.client.create(file_id)
    return {file_id, *await _prove_batch(bench, outcome, batch.id)}


async def _prove_batch(bench: Bench, outcome: Outcome, batch_id: str) -> set[str]:
    batch = await bench.client.ended(batch_id)
    if isinstance(outcome, Fine):
        assert batch.status == BatchStatus.BATCH_STATUS_COMPLETED
        assert batch.request_counts.completed == batch.request_counts.total == outcome.lines
        return {batch.id, batch.output_file_id}
    assert isinstance(outcome, Failed)
    assert batch.status == BatchStatus.BATCH_STATUS_FAILED
    assert batch.failed_at
    assert batch.request_counts.total == 0
    assert not batch.HasField("in_progress_at")
    shown = (await bench.ask(Http("GET", f"/v1/batches/{batch.id}"))).json()
    expected = [error._replace(message=bench.fill(error.message))._asdict() for error in outcome.errors]
    assert shown["errors"] == {"object": "list", "data": expected}
    assert [_told(error) for error in batch.errors.data] == expected
    return {batch.id}


async def _prove_page(bench: Bench, outcome: Fine, send: Send) -> set[str]:
    if isinstance(send, Http):
        answer = await bench.ask(send)
        assert answer.status_code == 200, answer.text
        ids = [file["id"] for file in answer.json()["data"]]
    else:
        assert isinstance(send, Rpc)
        (message,) = await bench.call(send)
        ids = [file.id for file in ListFilesResponse.FromString(message).data]
    assert ids == [bench.fill(name) for name in outcome.ids]
    return set()


async def _made(bench: Bench, send: Send) -> str:
    """The id of the file or batch that this makes."""
    if isinstance(send, Http):
        answer = await bench.ask(send)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])
    assert isinstance(send, Rpc)
    (message,) = await bench.call(send)
    if send.name == "UploadFile":
        return UploadFileResponse.FromString(message).file.id
    return CreateBatchResponse.FromString(message).batch.id


def _told(error: Any) -> dict[str, Any]:
    optional = {name: getattr(error, name) if error.HasField(name) else None for name in ("param", "line")}
    return {"code": error.code, "message": error.message, **optional}


async def _furnished(client: Client) -> dict[str, str]:
    deleted = await client.upload(EARLIER, purpose="user_data")
    await client.stub.DeleteFile(DeleteFileRequest(file_id=deleted.id), metadata=client.metadata)
    held = await client.upload(jsonl([chat_line("held", "hold")]))
    running = await client.create(held.id)
    done = await client.run(chat_lines(1))
    failed = await client.ended((await client.create("file-none", idempotency_key="used")).id)
    await until(lambda: client.get(running.id), lambda batch: batch.status == BatchStatus.BATCH_STATUS_IN_PROGRESS)
    made: dict[str, Any] = {"deleted": deleted, "held": held, "running": running, "done": done, "failed": failed}
    return {name: thing.id for name, thing in made.items()}


async def _all(client: Client, rpc: Any, request: Any) -> list[Any]:
    """Every page of a list."""
    found: list[Any] = []
    more = True
    while more:
        page = await rpc(request, metadata=client.metadata)
        found += page.data
        more, request.after = page.has_more, page.last_id
    return found


def _stream(messages: list[bytes], over: threading.Event | None) -> Iterator[bytes]:
    yield from messages
    if over:
        over.wait()
