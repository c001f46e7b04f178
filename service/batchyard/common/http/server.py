"""An HTTP/1.1 server for one ASGI application, on sockets that are bound already."""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import Any

from batchyard.common.http.connection import Connection
from batchyard.common.http.request_log import RequestLog
from batchyard.common.http.service import LINGER_SECONDS, Service

_TICK_SECONDS = 0.1


class HttpServer:
    """Answers more than `max_requests` at once with 503, except under /health/.

    A request's head may take `head_seconds`; a client that takes nothing of its answer for `idle_seconds` is cut off.
    Refusals of the server's own are entered in `request_log`. Each request has in its state the event `stopping`: an
    answer that would never end should, once it is set.
    """

    def __init__(
        self, app: Any, request_log: RequestLog, *, max_requests: int, head_seconds: float, idle_seconds: float
    ) -> None:
        self._service = Service(app, request_log, max_requests, head_seconds, idle_seconds)
        self._listeners: list[asyncio.Server] = []

    async def start(self, sockets: Iterable[socket.socket], backlog: int, context: ssl.SSLContext | None) -> None:
        """Accepts connections; with a context, they speak TLS."""
        loop, service = asyncio.get_running_loop(), self._service
        seconds: dict[str, Any] = (
            {"ssl_handshake_timeout": service.head_seconds, "ssl_shutdown_timeout": LINGER_SECONDS} if context else {}
        )
        for one in sockets:
            self._listeners.append(
                await loop.create_server(lambda: Connection(service), sock=one, ssl=context, backlog=backlog, **seconds)
            )

    async def drain(self, seconds: float) -> None:
        """Accepts nothing more and waits for the running requests; after `seconds` they are cut off."""
        for listener in self._listeners:
            listener.close()
        self._service.stop()
        while not await self._is_quiet(seconds):
            self._cut_off()
            seconds = _TICK_SECONDS

    async def _is_quiet(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._service.quiet.wait()
        except TimeoutError:
            return False
        return True

    def _cut_off(self) -> None:
        """Ends what runs now, without another word to its callers."""
        for connection in list(self._service.connections):
            connection.abort()
        for task in list(self._service.running.values()):
            task.cancel()
        for listener in self._listeners:  # what is in the midst of a TLS handshake is no connection of ours yet
            getattr(listener, "abort_clients", lambda: None)()  # since Python 3.13
