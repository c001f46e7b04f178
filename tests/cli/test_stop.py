"""SIGTERM to `batchyard serve`: health says so first, and what runs is finished."""

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.harness import KEY, PATIENCE, until
from tests.processes import batchyard, configure

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
