"""SIGTERM to `batchyard`: health says so first, what runs is finished, and who watches is told."""

import asyncio
import os
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.eventsource import EventSource
from tests.harness import KEY, PATIENCE, chat_lines, jsonl, plain_client, until
from tests.processes import Process, batchyard, configure

BOUNDARY = "frontier"
HALF = 600_000
FIELDS = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
)
HEAD = (
    "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    f"Authorization: Bearer {KEY}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
)


def chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


async def test_health_says_so_while_an_upload_is_finished(tmp_path: Path) -> None:
    configure(tmp_path, echo=True)
    with batchyard(tmp_path, "serve") as served:
        rest, target = await served.port("REST on"), f"127.0.0.1:{await served.port('gRPC on')}"
        async with asyncio.timeout(PATIENCE), grpc.aio.insecure_channel(target) as channel:
            request = health_pb2.HealthCheckRequest(service="batchyard.v1.BatchService")
            watch = health_pb2_grpc.HealthStub(channel).Watch(request)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            reader, writer = await asyncio.open_connection("127.0.0.1", rest)
            writer.write(HEAD.encode() + chunk(FIELDS + "x" * HALF))
            await writer.drain()
            await until(partial(asyncio.to_thread, (tmp_path / "data/store/files").exists), bool)

            os.kill(served.pid, signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            writer.write(chunk("x" * HALF + f"\r\n--{BOUNDARY}--\r\n") + b"0\r\n\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert f'"bytes":{2 * HALF}'.encode() in answer
            writer.close()


async def test_who_watches_is_told_that_the_service_stops(tmp_path: Path) -> None:
    configure(tmp_path, echo=True, echo_delay_ms=60_000)
    with batchyard(tmp_path, "serve") as served:  # of its two halves, either may be the first to say so
        assert await last_event(served) in {
            "The service is stopping. Watch the batch again in a moment.",
            "The server is stopping. Connect again in a moment.",
        }


async def test_a_shim_alone_tells_who_watches_that_it_stops(tmp_path: Path) -> None:
    configure(tmp_path, echo=True, echo_delay_ms=60_000)
    with ExitStack() as started:
        target = f"127.0.0.1:{await started.enter_context(batchyard(tmp_path)).port()}"
        shim = started.enter_context(batchyard(tmp_path, "shim", "--service", target))
        assert await last_event(shim) == "The server is stopping. Connect again in a moment."


async def last_event(stopped: Process) -> str:
    """What the error says with which the events of a running batch end, whole, when the process is told to stop."""
    base, key = f"http://127.0.0.1:{await stopped.port('REST on')}/v1", {"authorization": f"Bearer {KEY}"}
    async with plain_client(base_url=base, headers=key, timeout=PATIENCE) as client:
        form = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", jsonl(chat_lines(1)))}}
        file = (await client.post("/files", **form)).json()  # type: ignore[arg-type]
        request = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = (await client.post("/batches", json=request)).json()
        events = EventSource(client, f"/batches/{batch['id']}/events").connect()
        while (await anext(events)).json()["status"] != "in_progress":
            pass
        os.kill(stopped.pid, signal.SIGTERM)
        *_, last = [event async for event in events]
        assert last.name == "error"
        return str(last.json()["error"]["message"])
