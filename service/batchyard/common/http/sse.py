"""Server-sent events (the HTML standard, 9.2): how one is written, and an answer that consists of them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from hashlib import sha256
from typing import Any

from batchyard.common.http import envelope
from batchyard.common.http.middleware import ClientLeft, Scope, Send

RETRY_MS = 2000

_HEAD = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]
_COMMENT = b":\n\n"
_STOPPING = envelope.body(envelope.error(503, "The server is stopping. Connect again in a moment."))


def event(name: str, data: bytes, *, mark: str = "") -> bytes:
    """One event with one line of data; `mark` is what a client that connects again sends as Last-Event-ID."""
    return f"event: {name}\n".encode() + (f"id: {mark}\n".encode() if mark else b"") + b"data: %b\n\n" % data


def mark_of(data: bytes) -> str:
    """A mark that is the same wherever and whenever the same data is sent."""
    return sha256(data).hexdigest()[:16]


def failure(data: bytes) -> bytes:
    """An error, after which the client does well to connect again."""
    return f"retry: {RETRY_MS}\n".encode() + event("error", data)


async def respond(scope: Scope, send: Send, events: AsyncGenerator[bytes], *, quiet: float, idle: float) -> None:
    """Answers with `events`, a comment wherever none comes for `quiet` seconds, and an error when the listener stops.

    Raises ClientLeft where the client takes nothing for `idle` seconds.
    """
    stopping = scope.get("state", {}).get("stopping") or asyncio.Event()
    await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
    async with aclosing(events), aclosing(_kept_alive(events, quiet, stopping)) as pieces:
        async for piece in pieces:
            await _taken(send({"type": "http.response.body", "body": piece, "more_body": True}), idle)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _taken(sending: Awaitable[None], idle: float) -> None:
    try:
        async with asyncio.timeout(idle):
            await sending
    except TimeoutError as error:
        raise ClientLeft from error


async def _kept_alive(events: AsyncGenerator[bytes], quiet: float, stopping: asyncio.Event) -> AsyncGenerator[bytes]:
    stop: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
    coming: asyncio.Future[Any] = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            await asyncio.wait({coming, stop}, timeout=quiet, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                if (piece := coming.result()) is None:
                    return
                coming = asyncio.ensure_future(anext(events, None))
                yield piece
            elif stop.done():
                yield failure(_STOPPING)
                return
            else:
                yield _COMMENT
    finally:
        for task in (coming, stop):
            task.cancel()
        await asyncio.gather(coming, stop, return_exceptions=True)
