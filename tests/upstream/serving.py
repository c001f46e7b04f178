"""HTTP/1.1 on a free port: uvicorn's protocol, with the connection itself in the hands of the application."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

_KEEP_ALIVE_SECONDS = 75


class Connection(HttpToolsProtocol):
    """A request finds its connection in its scope's state. `lost` is set once it is gone.

    One that is `silent` is there and moves nothing; who reads and writes looks to that.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {"connection": self})
        self.lost = asyncio.Event()
        self.silent = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # each send waits for the one before it to leave this process

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()

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
    config = uvicorn.Config(
        app,
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(config, state), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        connections = [one for one in state.connections if isinstance(one, Connection)]
        for connection in connections:
            connection.transport.abort()
        await asyncio.gather(*(connection.lost.wait() for connection in connections), *state.tasks)
