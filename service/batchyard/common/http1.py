"""uvicorn's HTTP/1.1 protocol with the bounds it lacks, answering its own refusals in OpenAI's envelope.

uvicorn's httptools protocol takes a request head of any size, waits for one forever, and answers in plain text.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from batchyard.common import envelope
from batchyard.common.ledger import Ledger

MAX_HEAD_BYTES = 64 << 10
LINGER_SECONDS = 5.0


@dataclass(frozen=True)
class Refusal:
    """An answer of the server's own, after which the connection closes; it is entered in the ledger."""

    status: int
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def answer(self, ledger: Ledger, scope: Any, receive: Any, send: Any) -> None:
        """With the ledger bound, an ASGI application."""
        name, body = envelope.request_id(scope["headers"]), self._body()
        await send({"type": "http.response.start", "status": self.status, "headers": self._head(name, body)})
        await send({"type": "http.response.body", "body": body})
        ledger.refuse(name, self.status, len(body), method=scope["method"])

    def written(self, ledger: Ledger) -> bytes:
        """The whole answer to a request whose head could not be read."""
        name, body = envelope.request_id(()), self._body()
        ledger.refuse(name, self.status, len(body))
        head = b"".join(b"%s: %s\r\n" % header for header in self._head(name, body))
        return STATUS_LINE[self.status] + head + b"\r\n" + body

    def _body(self) -> bytes:
        return envelope.body(envelope.error(self.status, self.message))

    def _head(self, name: str, body: bytes) -> list[tuple[bytes, bytes]]:
        length = (b"content-length", b"%d" % len(body))
        fixed = [(b"content-type", b"application/json"), length, (b"connection", b"close")]
        return [*fixed, *envelope.marks(name), *self.headers]


_BUSY = Refusal(503, "The server has too many requests at once; try again.", ((b"retry-after", b"1"),))
_LARGE = Refusal(431, f"The request's headers are larger than {MAX_HEAD_BYTES} bytes.")
_LATE = Refusal(408, "The request's headers took too long.")


class _Cork:
    """An answer's way to the transport, on which its head leaves together with what follows at once."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = b""

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._transport.write(data)
        elif self._held:
            self._transport.writelines([self._held, data])
            self._held = None
        else:
            self._held = data
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = None

    def close(self) -> None:
        self.flush()
        self._transport.close()


class BoundedHttp(HttpToolsProtocol):
    """Bounds a request's head to MAX_HEAD_BYTES and `head_seconds`, and requests at once to `limit_concurrency`.

    A request runs until its answer has left (over TLS: but for what the transport below holds, which can't be seen). A
    client that takes nothing of it for `idle_seconds` is cut off.
    Each request has in its state the event `stopping`: an answer that would never end should, once it is set.
    """

    def __init__(self, *args: Any, ledger: Ledger, head_seconds: float, idle_seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ledger = ledger
        self._most = self.limit_concurrency
        self.limit_concurrency = None
        self._head_seconds = head_seconds
        self._idle_seconds = idle_seconds
        self._lost = asyncio.Event()
        self._stopping = asyncio.Event()
        self._held = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._lost.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        self._stopping.set()
        # A stop waits for running requests, but not for clients that don't read what is left.
        self._idle_seconds = min(self._idle_seconds, LINGER_SECONDS)
        if not self._answering():
            self.loop.call_later(self._idle_seconds, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        # What the parser takes without handing on a head or a piece of body is held in memory: a head that
        # goes on, a chunk's extensions, a trailer.
        self._held += len(data)
        super().data_received(data)
        if self._held > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_came()
        cork = _Cork(self.transport, self.loop)
        self.app = partial(self._run, cork, self._app_for_head())
        super().on_headers_complete()
        self.cycle.transport = cork  # type: ignore[assignment]

    def _app_for_head(self) -> Any:
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            return partial(_LARGE.answer, self._ledger)
        full = self._most is not None and len(self.tasks) >= self._most
        probed = self.url.startswith(b"/health/")
        return partial(_BUSY.answer, self._ledger) if full and not probed else self.config.loaded_app

    async def _run(self, cork: _Cork, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Runs `app` until its answer has left; an answer that it doesn't finish ends with the connection."""
        begun = whole = False
        scope["state"]["stopping"] = self._stopping

        async def watched(message: Any) -> None:
            nonlocal begun, whole
            await send(message)
            begun = True
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            if whole:
                cork.flush()

        try:
            await app(scope, receive, watched)
        finally:
            if begun and not whole:
                self.transport.abort()
        if whole:
            await self._flushed()
        elif begun:
            await self._lost.wait()  # uvicorn takes a break that it doesn't know of for a defect

    async def _flushed(self) -> None:
        if self._lost.is_set():
            return
        left = self.transport.get_write_buffer_size()
        self.transport.set_write_buffer_limits(0)
        while left:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    await self.flow.drain()
                left = 0
            except TimeoutError:
                before, left = left, self.transport.get_write_buffer_size()
                if left >= before:
                    self.transport.abort()
                    return
        if not self._lost.is_set():
            self.transport.set_write_buffer_limits()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_timer is not None:  # else a trailer: nothing of ours reads one
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._held = 0
        if not self.cycle.body:
            self.cycle.body = b""  # type: ignore[assignment]  # with bytes, what is added to nothing is not copied
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._held = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(400, msg))

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
            self._refuse(_LATE)
        else:
            self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, refusal: Refusal) -> None:
        """Answers and closes; in the midst of another answer, only closes."""
        if not self._answering():
            self.transport.write(refusal.written(self._ledger))
        self.transport.close()
