"""One request and its answer, between an HTTP connection and the ASGI application."""

import asyncio
import logging
from typing import Any, Protocol

from batchyard.common.http import envelope
from batchyard.common.http.refusal import Refusal
from batchyard.common.http.request_head import RequestHead
from batchyard.common.http.response import Response

REQUEST_HIGH_WATER = 64 << 10
"""Bytes of a body that wait for the application before no more are read; what one read brings comes on top."""

_DISCONNECT = {"type": "http.disconnect"}
_DEFECT = Refusal(500, envelope.DEFECT)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logging.getLogger("batchyard.shim")


class Wire(Protocol):
    """What an exchange asks of its connection."""

    def write(self, pieces: list[bytes]) -> None:
        """Sends bytes."""

    async def writable(self) -> None:
        """Waits while the client is far behind with what was sent."""

    def resume_reading(self) -> None:
        """Goes on reading."""

    def pause_reading(self) -> None:
        """Reads nothing more for now."""

    def abort(self) -> None:
        """Ends the connection at once."""

    def ended(self, exchange: "Exchange") -> None:
        """Takes note that the application has returned."""


class Exchange:
    """A request that runs: what the application receives and sends, and the task in which it does.

    Memory is bounded both ways: a body that nobody receives stops the connection's reading, and who sends waits for a
    client that doesn't take what was sent.
    """

    def __init__(self, wire: Wire, head: RequestHead, scope: dict[str, Any], *, keep_alive: bool) -> None:
        self.response = Response(head.method, head.version, keep_alive=keep_alive)
        self.begun = self.gone = self.returned = False
        self.scope = scope
        self._wire = wire
        self._head = head
        self._unasked = head.expects and not head.body.ended
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._end_received = False
        self._held_head: bytes | None = None
        self._moved = asyncio.Event()

    @property
    def name(self) -> str:
        """The request's id."""
        return self.scope["state"].get("request_id") or envelope.request_id(self._head.headers)

    async def run(self, app: Any) -> None:
        """Runs the application. An answer that it doesn't finish ends with the connection."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self.leave()
            self._wire.abort()
            raise
        except Exception:
            if not self.begun and not self.gone:
                log.exception("a defect broke the request", extra={"request_id": self.name})
        finally:
            self._close()

    async def receive(self) -> dict[str, Any]:
        """ASGI's: the next of the body, then, once the client has left or been answered, that it is gone."""
        while not (self._pieces or self.gone or self.response.complete or self._ends_now()):
            if self._unasked:
                self._unasked = False
                self._wire.write([_CONTINUE])
            self._moved.clear()
            await self._moved.wait()
        if self.gone or self.response.complete:
            return _DISCONNECT
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, paused = [], self._waiting > REQUEST_HIGH_WATER
        self._waiting, self._end_received = 0, self._head.body.ended
        if paused:
            self._wire.resume_reading()
        return {"type": "http.request", "body": body, "more_body": not self._end_received}

    async def send(self, message: Any) -> None:
        """ASGI's. Raises MalformedResponse; says nothing where the client is gone."""
        await self._wire.writable()
        if self.gone:
            await asyncio.sleep(0)  # who sends on and on must not keep the others from running
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.begun:
            self._begin(message)
        elif kind == "http.response.body" and self.begun and not self.response.complete:
            self._go_on(message)
        else:
            raise RuntimeError(f"{kind} does not come here in an answer")
        if message.get("more_body"):
            await self._wire.writable()  # so that who sends fetches nothing more till then

    def arrived(self, data: bytes) -> None:
        """Takes a piece of the request's body, or (empty) its end."""
        self._unasked = False
        if data and not self.response.complete:
            self._pieces.append(data)
            self._waiting += len(data)
            if self._waiting > REQUEST_HIGH_WATER:
                self._wire.pause_reading()
        self._moved.set()

    def leave(self) -> None:
        """Takes note that nobody reads the answer any more."""
        self.gone = True
        self._pieces, self._held_head = [], None
        self._moved.set()

    def _ends_now(self) -> bool:
        return self._head.body.ended and not self._end_received

    def _begin(self, message: Any) -> None:
        if self._unasked:
            self.response.keep_alive = False  # whether the body will still come, nobody knows
        self._held_head = self.response.head(message)
        self.begun = True
        asyncio.get_running_loop().call_soon(self._send_head)

    def _go_on(self, message: Any) -> None:
        pieces = self.response.body(message)
        if self._held_head:
            pieces.insert(0, self._held_head)
            self._held_head = None
        self._wire.write(pieces)
        if self.response.complete:
            self._moved.set()

    def _send_head(self) -> None:
        """Sends an answer's head that has waited for the first of its body, which would have left together with it."""
        if self._held_head:
            self._wire.write([self._held_head])
            self._held_head = None

    def _close(self) -> None:
        if not self.gone and not self.begun:
            self.response = Response(self._head.method, self._head.version, keep_alive=False)
            start, body = _DEFECT.messages(self.name)
            self._wire.write([self.response.head(start), *self.response.body(body)])
            self.begun = True
        elif not self.gone and not self.response.complete:
            self._wire.abort()
        self.returned = True
        self._wire.ended(self)
