"""HTTP/1.1 on a free port, with the connection itself in the hands of the application."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from batchyard.common.http.connection import Connection as HttpConnection
from batchyard.common.http.request_log import RequestLog
from batchyard.common.http.service import Service
from batchyard.common.metrics import Metrics

_FOREVER = 3600.0


class Connection(HttpConnection):
    """A request finds its connection in its scope's state. `lost` is set once it is gone.

    One that is `silent` is there and moves nothing; who reads and writes looks to that.
    """

    def __init__(self, service: Service, there: dict[Any, "Connection"]) -> None:
        super().__init__(service)
        self.lost = asyncio.Event()
        self.silent = False
        self.sent = asyncio.Event()  # nothing waits in this process
        self.sent.set()
        self._there = there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.peer = transport.get_extra_info("peername")
        self._there[self.peer] = self
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        del self._there[self.peer]
        self.sent.set()
        self.lost.set()

    def pause_writing(self) -> None:
        self.sent.clear()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.sent.set()
        super().resume_writing()

    async def reset(self) -> None:
        """Ends the connection with a reset; what has been sent may still arrive."""
        self.cut()
        await self.lost.wait()

    def cut(self) -> None:
        """Begins a reset."""
        if self.lost.is_set():
            return
        at_once = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.transport.abort()

    async def close(self) -> None:
        """Ends the connection in good order, whatever its answer has promised."""
        self.transport.close()
        await self.lost.wait()


@asynccontextmanager
async def on_a_free_port(app: Any) -> AsyncIterator[int]:
    """Serves the ASGI app until the context ends, and gives the port; then what still runs is cut off."""
    there: dict[Any, Connection] = {}

    async def told(scope: Any, receive: Any, send: Any) -> None:
        connection = scope["state"]["connection"] = there[scope["client"]]

        async def paced(message: Any) -> None:  # each send waits for the one before it to leave this process
            await connection.sent.wait()
            await send(message)

        await app(scope, receive, paced)

    service = Service(told, RequestLog(Metrics()), max_requests=1 << 20, head_seconds=_FOREVER, idle_seconds=_FOREVER)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service, there), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        connections = list(there.values())
        for connection in connections:
            connection.transport.abort()
        tasks = list(service.running.values())
        await asyncio.gather(*(connection.lost.wait() for connection in connections), *tasks)
