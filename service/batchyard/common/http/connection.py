"""HTTP/1.1 on one connection: requests come one after the other, and each is answered before the next one is read."""

import asyncio
from typing import Any, cast
from urllib.parse import unquote

from batchyard.common.http import envelope
from batchyard.common.http.exchange import Exchange
from batchyard.common.http.refusal import Refusal
from batchyard.common.http.request_body import Body, CountedBody, RequestError
from batchyard.common.http.request_head import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    RequestHead,
    read_anyway,
    read_head,
    wrong_beginning,
)
from batchyard.common.http.service import LINGER_SECONDS, Service

ANSWER_HIGH_WATER = 64 << 10
"""Bytes of an answer that wait for the client before the application waits; what it sends at once comes on top."""

AHEAD_HIGH_WATER = 64 << 10
"""Bytes of requests that come before their turn until no more are read; what one read brings comes on top."""

MAX_DISCARDED_BYTES = 16 << 20
KEEP_ALIVE_SECONDS = 75.0
HALF_CLOSED_SECONDS = 10.0

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_BUSY = Refusal(503, "The server has too many requests at once; try again.", ((b"retry-after", b"1"),))
_LARGE = Refusal(431, f"The request's headers are larger than {MAX_HEAD_BYTES} bytes.")
_LATE = Refusal(408, "The request's headers took too long.")


class Connection(asyncio.Protocol):
    """Reads requests, and runs the application for each.

    A client that takes nothing of its answer for `idle_seconds` is cut off (over TLS what the transport below holds
    can't be seen). One that has shut its own side is answered as long as some of the answer leaves every
    HALF_CLOSED_SECONDS: nothing else shows whether it is still there. What comes after an answer that was given early
    is thrown away, within bounds: a client that finds its connection reset may never read the answer.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._exchange: Exchange | None = None
        self._body: Body = CountedBody(0)
        self._head: bytes | bytearray = b""  # of the next request, as far as it has come
        self._ahead = bytearray()
        self._discarded = 0
        self._lingering = self._half_closed = self._reading_paused = False
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._room: asyncio.Event | None = None  # there while the transport holds bytes
        self._written = self._left_before = 0
        self._stuck_since = 0.0
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=1, low=0)  # it tells when everything has left
        server, client = (transport.get_extra_info(name) for name in ("sockname", "peername"))
        self._server = tuple(server[:2]) if isinstance(server, tuple) else None
        self._client = tuple(client[:2]) if isinstance(client, tuple) else None
        self._secure = transport.get_extra_info("sslcontext") is not None
        self._service.connections.add(self)
        self._expire_in(self._service.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline = None
        for timer in (self._timer, self._reader_timer):
            if timer:
                timer.cancel()
        self._give_up()
        if self._room:
            self._room.set()
            self._room = None
        self._service.connections.discard(self)
        self._service.note()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._discard(len(data))
        elif not self._body.ended:
            self._take_body(data)
        elif self._exchange:
            self._ahead += data
            if len(self._ahead) > AHEAD_HIGH_WATER:
                self.pause_reading()
        else:
            self._take_head(data)

    def eof_received(self) -> bool:
        """Keeps the connection for a request that is whole. TLS can't be closed by half."""
        if not self._exchange or not self._body.ended or self._secure:
            return False
        self._half_closed = True
        self._look_for_client(-1)
        return True

    def pause_writing(self) -> None:
        self._room = asyncio.Event()
        self._stuck_since, self._left_before = self._loop.time(), self._bytes_left()
        if not self._reader_timer:
            self._reader_timer = self._loop.call_later(self._service.idle_seconds, self._look_for_reader)

    def resume_writing(self) -> None:
        if self._room:
            self._room.set()
            self._room = None
        if self._exchange:
            self.ended(self._exchange)

    def stop(self) -> None:
        """Ends the connection once its answer has left."""
        if self._reader_timer:
            self._reader_timer.cancel()
            self._reader_timer = self._loop.call_later(self._service.idle_seconds, self._look_for_reader)
        if self._exchange:
            self._exchange.response.keep_alive = False
        elif not self._lingering:
            self._close()

    # What an exchange asks for.

    def write(self, pieces: list[bytes]) -> None:
        self._written += sum(map(len, pieces))
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif pieces:
            self._transport.writelines(pieces)

    async def writable(self) -> None:
        while self._room and self._transport.get_write_buffer_size() > ANSWER_HIGH_WATER:
            await self._room.wait()

    def pause_reading(self) -> None:
        if not self._reading_paused and not self._half_closed:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        self._transport.abort()

    def ended(self, exchange: Exchange) -> None:
        if exchange is not self._exchange:
            self._forget(exchange)
        elif exchange.returned and exchange.response.complete and not self._room:
            self._finish(exchange)

    # A request comes.

    def _take_head(self, data: bytes) -> None:
        start, head = max(0, len(self._head) - len(END_OF_HEAD) + 1), self._head
        if head:
            head += data
        else:
            head = data
        end = head.find(END_OF_HEAD, start) + len(END_OF_HEAD)
        if end < len(END_OF_HEAD):
            self._wait_for_head(head, start)
        elif end > MAX_HEAD_BYTES:
            self._refuse(_LARGE, head)
        else:
            self._head = b""
            self._begin(bytes(head[:end]), bytes(head[end:]))

    def _wait_for_head(self, head: bytes | bytearray, seen: int) -> None:
        problem = wrong_beginning(head, seen)
        if problem:
            self._refuse(Refusal(400, problem), head)
        elif len(head) > MAX_HEAD_BYTES:
            self._refuse(_LARGE, head)
        elif self._half_closed:
            self._transport.close()
        elif not self._head:
            self._head = bytearray(head)
            left = (self._deadline or 0) - self._loop.time()
            self._expire_in(min(left, self._service.head_seconds))

    def _begin(self, data: bytes, rest: bytes) -> None:
        try:
            head = read_head(data)
        except RequestError as error:
            self._refuse(Refusal(error.status, error.message, error.headers), data)
            return
        service = self._service
        if len(service.running) >= service.max_requests and not head.path.startswith(b"/health/"):
            self._refuse(_BUSY, data)
            return
        keep_alive = head.keep_alive and not service.stopping.is_set()
        self._deadline = None
        self._exchange = exchange = Exchange(self, head, self._scope(head), keep_alive=keep_alive)
        self._body = head.body
        service.running[exchange] = self._loop.create_task(exchange.run(service.app))
        if rest:
            self.data_received(rest)
        if self._half_closed and not self._body.ended:
            self.abort()

    def _scope(self, head: RequestHead) -> dict[str, Any]:
        path = head.path.decode("ascii")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.version,
            "server": self._server,
            "client": self._client,
            "scheme": "https" if self._secure else "http",
            "method": head.method,
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": head.path,
            "query_string": head.query,
            "headers": head.headers,
            "state": {"stopping": self._service.stopping},
        }

    def _take_body(self, data: bytes) -> None:
        try:
            content, rest = self._body.take(data)
        except RequestError as error:
            self._break_off(Refusal(error.status, error.message))
            return
        if self._exchange:
            self._exchange.arrived(content)
        else:
            self._discard(len(content))
        if self._body.ended:
            if not self._exchange and not self._lingering:
                self._wait_for_next()
            if rest:
                self.data_received(rest)

    # An answer ends.

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        self._forget(exchange)
        if not exchange.response.keep_alive or self._service.stopping.is_set():
            self._close()
        elif not self._body.ended:
            self._discarded = 0
            self._expire_in(LINGER_SECONDS)
            self.resume_reading()
        else:
            self._wait_for_next()

    def _wait_for_next(self) -> None:
        self._expire_in(KEEP_ALIVE_SECONDS)
        self.resume_reading()
        if self._ahead:
            data = bytes(self._ahead)
            self._ahead.clear()
            self._take_head(data)
        elif self._half_closed:
            self._transport.close()

    def _refuse(self, refusal: Refusal, head: bytes | bytearray) -> None:
        method, headers = read_anyway(head)
        name = envelope.request_id(headers)
        pieces, size = refusal.written(method, name)
        self._service.request_log.refuse(name, refusal.status, size, method=method)
        self.write(pieces)
        self._head = b""
        self._linger()

    def _break_off(self, refusal: Refusal) -> None:
        """Ends a request whose body can't be read: with a refusal, where no other answer has begun."""
        exchange = self._exchange
        if not exchange or exchange.begun:
            self.abort()
            return
        exchange.scope["state"]["refused"] = refusal.status
        pieces, _ = refusal.written(exchange.scope["method"], exchange.name)
        self._give_up()
        self.write(pieces)
        self._linger()

    def _give_up(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange:
            exchange.leave()
            if exchange.returned:
                self._forget(exchange)

    def _forget(self, exchange: Exchange) -> None:
        self._service.running.pop(exchange, None)
        self._service.note()

    def _close(self) -> None:
        if self._body.ended and not self._ahead:
            self._transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Closes when the client does, and reads what it still sends till then."""
        self._lingering, self._discarded = True, 0
        if self._half_closed:
            self._transport.close()
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._ahead.clear()
        self.resume_reading()
        self._expire_in(LINGER_SECONDS)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > MAX_DISCARDED_BYTES:
            self._lingering = True
            self._transport.close()

    # Time passes.

    def _expire_in(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        if not self._timer or self._timer_at > self._deadline:
            self._set_timer(self._deadline)

    def _set_timer(self, at: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._expire), at

    def _expire(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer(self._deadline)
        elif self._head:
            self._refuse(_LATE, self._head)
        elif self._lingering:
            self.abort()
        else:
            self._transport.close()

    def _bytes_left(self) -> int:
        """How many bytes have left this process."""
        return self._written - self._transport.get_write_buffer_size()

    def _look_for_reader(self) -> None:
        self._reader_timer = None
        if not self._room:
            return
        now, left, idle = self._loop.time(), self._bytes_left(), self._service.idle_seconds
        if left > self._left_before:
            self._stuck_since, self._left_before = now, left
        wait = self._stuck_since + idle - now
        if wait <= 0:
            self.abort()
        else:
            self._reader_timer = self._loop.call_later(wait, self._look_for_reader)

    def _look_for_client(self, left_before: int) -> None:
        if self._transport.is_closing():
            return
        left = self._bytes_left()
        if left == left_before:
            self.abort()
        else:
            self._loop.call_later(HALF_CLOSED_SECONDS, self._look_for_client, left)
