import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import httpx
import pytest
from tests.harness import KEY, Client, jsonl, plain_client, service, settings_for, until
from tests.ways import alone, pytest_generate_tests, shim_is  # noqa: F401

from batchyard.common.calls import Caller
from batchyard.common.http.listeners import listening
from batchyard.common.metrics import Metrics
from batchyard.service.server import Server
from batchyard.shim.app import create_app
from batchyard.shim.caller import connect

Part = tuple[str, str | bytes] | tuple[str, str | bytes, str]

BEARER = {"authorization": f"Bearer {KEY}"}
ENDED_WORDS = {"completed", "failed", "expired", "cancelled"}
FILE_KEYS = {
    "object", "id", "purpose", "filename", "bytes", "created_at", "expires_at", "status", "status_details",
}  # fmt: skip
BATCH_KEYS = {
    "id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status", "output_file_id",
    "error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at",
    "expired_at", "cancelling_at", "cancelled_at", "request_counts", "usage", "metadata",
}  # fmt: skip


@dataclass
class Door:
    """A service and the shim in front of it, with a client of each; `store` is where the service keeps its bytes."""

    server: Server
    grpc: Client
    rest: httpx.AsyncClient
    port: int
    store: Path

    async def upload(self, data: bytes, filename: str = "input.jsonl", purpose: str = "batch") -> dict[str, Any]:
        answer = await self.rest.post("/v1/files", data={"purpose": purpose}, files={"file": (filename, data)})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def create(self, input_file_id: str, /, **members: Any) -> dict[str, Any]:
        answer = await self.rest.post("/v1/batches", json=batch_request(input_file_id, **members))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def ended(self, batch_id: str) -> dict[str, Any]:
        """The batch, when it has ended."""

        async def look() -> dict[str, Any]:
            return dict((await self.rest.get(f"/v1/batches/{batch_id}")).json())

        return await until(look, lambda batch: batch["status"] in ENDED_WORDS)

    async def run(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        return await self.ended((await self.create((await self.upload(jsonl(lines)))["id"]))["id"])

    def kept(self) -> list[str]:
        """Everything that lies in the store."""
        return sorted(path.name for path in self.store.rglob("*") if path.is_file())

    async def send_raw(self, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own, on which the pieces were written."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return reader, writer


def _calling(server: Server, secret: str) -> AbstractAsyncContextManager[Caller]:
    if alone():
        return connect(f"127.0.0.1:{server.grpc_port}", secret=secret)
    return nullcontext(server.caller)


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    clock: Callable[[], float] = time,
    steady: Any = None,
    metrics: Metrics | None = None,
    **changes: Any,
) -> AsyncIterator[Door]:
    """A front door with its data in `folder`; `changes` are settings."""
    settings = settings_for(folder, **changes)
    async with (
        service(settings, metrics, clock=clock, steady=steady) as (server, grpc),
        _calling(server, settings.shim_secret or "") as caller,
        listening(create_app(caller), "127.0.0.1", 0, max_requests=1000) as listener,
        rest_client(listener.port) as rest,
    ):
        yield Door(server, grpc, rest, listener.port, settings.data_dir / "store")


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path) as running:
        yield running


def rest_client(port: int) -> httpx.AsyncClient:
    return plain_client(base_url=f"http://127.0.0.1:{port}", headers=BEARER, timeout=60)


def batch_request(input_file_id: str, /, **members: Any) -> dict[str, Any]:
    whole = {"input_file_id": input_file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return {**whole, **members}


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer that must be one, in OpenAI's envelope and with a request id."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch("[A-Za-z0-9._-]{1,128}", answer.headers["x-request-id"])
    (error,) = json.loads(answer.content).values()
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["type"], str)
    return dict(error)


def form(*parts: Part, end: bool = True) -> bytes:
    """A form's bytes; a part's third member is its filename."""
    out = []
    for name, value, *filename in parts:
        disposition = f'Content-Disposition: form-data; name="{name}"' + "".join(f'; filename="{f}"' for f in filename)
        content = value if isinstance(value, bytes) else value.encode()
        out.append(f"--b0undary\r\n{disposition}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(out) + (b"--b0undary--\r\n" if end else b"")


FORM = {"content-type": "multipart/form-data; boundary=b0undary"}
