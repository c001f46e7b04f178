"""OpenAI's files and batches as far as a measurement asks, for next to nothing: it checks and keeps nothing.

`python -m tests.bench.provider N` runs it; every file's content is N bytes. `GET /counted` tells how often a batch was
asked for.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count, islice
from time import time
from typing import Any

import httptools
import uvloop
from tests.bench.controls import BLOCK

KEY = "sk-upstream"

_NOTHING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
_PIECE = b"x" * BLOCK
_SHOWN = 100  # batches of a list


class _Account:
    """What there is: the answers about batches, ready to be sent."""

    def __init__(self, content_bytes: int) -> None:
        self.content_bytes = content_bytes
        self.gets = 0
        self.batches: dict[str, bytes] = {}
        self._numbers = count(1)

    def answer(self, method: str, path: str, size: int) -> bytes:
        """What is sent; of a file's content, the head."""
        match [method, *path.strip("/").split("/")]:
            case ["GET", "v1", "batches", name] if name in self.batches:
                self.gets += 1
                return self.batches[name]
            case ["GET", "v1", "files", _, "content"]:
                return _HEAD % (b"application/octet-stream", self.content_bytes)
            case rest:
                answer = self._object(rest, size)
                return _json(answer) if answer else _NOTHING

    def _object(self, asked: list[str], size: int) -> dict[str, Any]:
        match asked:
            case ["GET", "v1", "batches"]:
                newest = islice(reversed(self.batches.values()), _SHOWN)
                shown = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in newest]
                return {"object": "list", "data": shown, "has_more": False}
            case ["POST", "v1", "batches"]:
                batch = _batch(f"batch_{next(self._numbers):032x}")
                self.batches[batch["id"]] = _json(batch)
                return batch
            case ["POST", "v1", "files"]:
                return _file(f"file-{next(self._numbers):022d}", size)
            case ["GET", "v1", "files", name]:
                return _file(name, self.content_bytes)
            case ["GET", "counted"]:
                return {"gets": self.gets}
        return {}


class _Connection(asyncio.Protocol):
    def __init__(self, account: _Account) -> None:
        self._account = account
        self._parser = httptools.HttpRequestParser(self)
        self._left = 0
        self._full = False

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = b""
        self._size = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, data: bytes) -> None:
        self._size += len(data)

    def on_message_complete(self) -> None:
        path = self._url.partition(b"?")[0].decode()
        self._transport.write(self._account.answer(self._parser.get_method().decode(), path, self._size))
        if path.endswith("/content"):
            self._left = self._account.content_bytes
            self._go_on()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._go_on()

    def _go_on(self) -> None:
        while self._left and not self._full:
            piece = _PIECE[: self._left]
            self._left -= len(piece)
            self._transport.write(piece)


def _json(members: dict[str, Any]) -> bytes:
    body = json.dumps(members).encode()
    return _HEAD % (b"application/json", len(body)) + body


def _batch(name: str) -> dict[str, Any]:
    now = int(time())
    ends = ("finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    return {
        "id": name,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": "gpt-4o-mini-2024-07-18",
        "errors": None,
        "input_file_id": f"file-{0:022d}",
        "completion_window": "24h",
        "status": "in_progress",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now,
        "in_progress_at": now,
        "expires_at": now + 86400,
        **{f"{end}_at": None for end in ends},
        "request_counts": {"total": 3, "completed": 0, "failed": 0},
        "metadata": None,
    }


def _file(name: str, size: int) -> dict[str, Any]:
    known = {"object": "file", "purpose": "batch", "filename": "input.jsonl", "status": "processed"}
    return {"id": name, "bytes": size, "created_at": int(time()), "expires_at": None, "status_details": None, **known}


@asynccontextmanager
async def answering(content_bytes: int = 0) -> AsyncIterator[int]:
    """Answers until the context ends, and gives the port."""
    account = _Account(content_bytes)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(account), "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _serve(content_bytes: int) -> None:
    async with answering(content_bytes) as port:
        print(f"provider on 127.0.0.1:{port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
