"""A connection without a network, for tests that say when what comes and goes."""

import asyncio
from collections.abc import Callable
from typing import Any

from batchyard.common.http.connection import Connection
from batchyard.common.http.request_log import RequestLog
from batchyard.common.http.service import Service
from batchyard.common.metrics import Metrics

FOREVER = 3600.0


class Wire(asyncio.Transport):
    """A transport that holds what is written until it is let out."""

    def __init__(self, protocol: Connection, *, stuck: bool = False) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.out = bytearray()
        self.reading, self.closed, self.ended = True, False, False
        self._protocol, self._stuck, self._held = protocol, stuck, 0
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.out += data
        if self._stuck:
            self._held += len(data)
            if self._held == len(data):
                self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def let_out(self) -> None:
        self._held = 0
        self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self._held

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close


class App:
    """Answers with the body that came; notes each request."""

    def __init__(self) -> None:
        self.came: list[tuple[str, str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.came.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def opened(app: Any, *, stuck: bool = False) -> tuple[Connection, Wire]:
    """A connection to the application, which nothing but its client ends."""
    service = Service(app, RequestLog(Metrics()), max_requests=8, head_seconds=FOREVER, idle_seconds=FOREVER)
    connection = Connection(service)
    return connection, Wire(connection, stuck=stuck)


async def fed(connection: Connection, wire: Wire, pieces: list[bytes]) -> None:
    """Hands the pieces over, each after what the one before it set going."""
    for piece in pieces:
        await until(lambda: wire.reading or wire.closed)
        if wire.closed:
            return
        if piece:
            connection.data_received(piece)
        await settled()


async def settled() -> None:
    """Lets everything run that can run at once."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(good: Callable[[], bool]) -> None:
    """Waits for what the loop still has to do."""
    async with asyncio.timeout(10):
        while not good():  # noqa: ASYNC110
            await asyncio.sleep(0)
