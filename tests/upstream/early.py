"""A provider that answers uploads before it has read them."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from batchyard.service.config.settings import Deployment

SEEN = 100_000
ERROR = {"message": "Too much of it.", "type": "their_type", "param": "file", "code": "their_code"}

After = Callable[["Early", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def keeps_open(early: "Early", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """And reads no more."""
    await asyncio.Event().wait()


async def reads_on(early: "Early", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        early.read += len(piece)


async def closes(early: "Early", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def half_closes(early: "Early", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write_eof()
    await asyncio.Event().wait()


async def resets(early: "Early", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Early:
    """A provider that answers uploads with `answer` when it has read the beginning of one, and then does `after`."""

    answer: bytes
    after: After
    seen: int = SEEN
    calls: int = 0
    connections: int = 0
    read: int = 0
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"POST /files"):
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return
            self.calls += 1
            await reader.readexactly(self.seen)
            writer.write(self.answer)
            await writer.drain()
            await self.after(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def ended(self) -> bool:
        """Whether every connection has ended."""
        return all(task.done() for task in self.tasks)


def answer_of(status: str, body: Any = None, *headers: str, length: bool = True) -> bytes:
    written = json.dumps(body if body is not None else {"error": ERROR}).encode()
    sized = [f"content-length: {len(written)}"] if length else []
    return (
        "\r\n".join([f"HTTP/1.1 {status}", "content-type: application/json", *sized, *headers, "", ""]).encode()
        + written
    )


@asynccontextmanager
async def early_provider(answer: bytes, after: After, seen: int = SEEN) -> AsyncIterator[tuple[Early, Deployment]]:
    """Such a provider, which answers after `seen` bytes, and the deployment that it is."""
    early = Early(answer, after, seen)
    server = await asyncio.start_server(early.serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield early, Deployment(name="openai", provider="openai", api_base=base, api_key="sk-theirs")
    finally:
        server.close()
        for task in early.tasks:
            task.cancel()
        await asyncio.gather(*early.tasks, return_exceptions=True)
