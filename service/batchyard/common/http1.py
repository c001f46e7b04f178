"""uvicorn's HTTP/1.1 protocol with the bounds it lacks, answering its own refusals in OpenAI's envelope.

uvicorn's httptools protocol takes a request head of any size, waits for one forever, and answers in plain text.
"""

import asyncio
import json
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def envelope(message: str, kind: str = "invalid_request_error") -> bytes:
    """An error body as OpenAI's API writes one."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()


_BUSY = envelope("The server has too many requests at once; try again.", "server_error")
_LARGE = envelope(f"The request's headers are larger than {MAX_HEAD_BYTES} bytes.")


async def _busy(scope: Any, receive: Any, send: Any) -> None:
    await _answer(send, 503, _BUSY, (b"retry-after", b"1"))


async def _large(scope: Any, receive: Any, send: Any) -> None:
    await _answer(send, 431, _LARGE)


async def _answer(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    start = {"type": "http.response.start", "status": status, "headers": [*_headers(body), *headers]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", b"req_" + secrets.token_hex(16).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    ]


class BoundedHttp(HttpToolsProtocol):
    """Bounds a request's head to MAX_HEAD_BYTES and `head_seconds`, and requests at once to `limit_concurrency`."""

    def __init__(self, *args: Any, head_seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most = self.limit_concurrency
        self.limit_concurrency = None
        self._head_seconds = head_seconds
        self._held = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # What the parser takes without handing on a head or a piece of body is held in memory: a head that
        # goes on, a chunk's extensions, a trailer.
        self._held += len(data)
        super().data_received(data)
        if self._held > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, _LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_came()
        self.app = self._app_for_head()
        super().on_headers_complete()

    def _app_for_head(self) -> Any:
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            return _large
        full = self._most is not None and len(self.tasks) >= self._most
        return _busy if full else self.config.loaded_app

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_timer is not None:  # else a trailer: nothing of ours reads one
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._held = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, envelope(msg))

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_seconds, self._late)

    def _head_came(self) -> None:
        self._held = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if self._answering():
            self._expect_head()  # the next head may wait for as long as this answer takes
        elif self._held:
            self._refuse(408, envelope("The request's headers took too long."))
        else:
            self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, body: bytes) -> None:
        """Answers and closes; in the midst of another answer, only closes."""
        if not self._answering():
            line = b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES[status])
            head = b"".join(b"%s: %s\r\n" % header for header in _headers(body))
            self.transport.write(line + head + b"\r\n" + body)
        self.transport.close()
