"""A listener for HTTP, on the addresses of a host or on a Unix socket."""

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from batchyard.common.addresses import address
from batchyard.common.certificates import ServerCertificates
from batchyard.common.http.request_log import RequestLog
from batchyard.common.http.server import HttpServer
from batchyard.common.metrics import Metrics
from batchyard.common.sockets import SocketError, UnixSocket
from batchyard.common.sockets import listener as unix_listener

_BACKLOG = 2048
_MOST_MS = (1 << 31) - 1


class ListenError(Exception):
    """The address can't be listened on; the text says which and why."""


class Listener:
    """A running listener: its `port` (0: a Unix socket), its `url`, and how it stops."""

    def __init__(self, server: HttpServer, port: int, url: str) -> None:
        self.port = port
        self.url = url
        self._server = server

    async def drain(self, seconds: float) -> None:
        """Accepts nothing more and waits for the running requests; after `seconds` they are cut off."""
        await self._server.drain(seconds)


@asynccontextmanager
async def listening(
    app: Any,
    host: str,
    port: int,
    *,
    max_requests: int,
    head_seconds: float = 30.0,
    idle_seconds: float = 60.0,
    request_log: RequestLog | None = None,
    certificates: ServerCertificates | None = None,
    instead: UnixSocket | None = None,
) -> AsyncIterator[Listener]:
    """Serves the ASGI app `app` on `host` and `port` (0: any free one) until the context ends.

    With `certificates` it speaks TLS. `instead` of host and port it may listen on a Unix socket, in clear text.
    `max_requests` bounds the requests at once; more are answered 503, except under /health/. A request's head may
    take `head_seconds`; a client that takes nothing of its answer for `idle_seconds` is cut off. `request_log` is where
    the server's own refusals are entered: the one that the app has, if any. Raises ListenError.
    """
    context = certificates.context if certificates and not instead else None
    with ExitStack() as opened:
        sockets = _bound_to_path(instead, opened) if instead else _bound(host, port, opened)
        if context and hasattr(socket, "TCP_USER_TIMEOUT"):  # what TLS holds back, only the kernel sees
            for one in sockets:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(int(idle_seconds * 1000), _MOST_MS))
        server = HttpServer(
            app,
            request_log or RequestLog(Metrics()),
            max_requests=max_requests,
            head_seconds=head_seconds,
            idle_seconds=idle_seconds,
        )
        port = 0 if instead else sockets[0].getsockname()[1]
        url = str(instead) if instead else f"{'https' if context else 'http'}://{address(host, port)}"
        try:
            await server.start(sockets, _BACKLOG, context)
            yield Listener(server, port, url)
        finally:
            await server.drain(0)


def _bound(host: str, port: int, opened: ExitStack) -> list[socket.socket]:
    """Bound sockets for every address of `host` (localhost has two), all with the same port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise ListenError(f"{host} is not an address of this machine") from None
    sockets: list[socket.socket] = []
    for family, *_, name in sorted(set(found)):
        port = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(opened.enter_context(_listener(family, str(name[0]), port)))
        except OSError as error:
            # A machine without IPv6 still names ::1; one address is enough.
            if sockets and error.errno == errno.EADDRNOTAVAIL:
                continue
            raise ListenError(f"can't listen on {address(host, port)}: {os.strerror(error.errno or 0)}") from None
    return sockets


def _bound_to_path(at: UnixSocket, opened: ExitStack) -> list[socket.socket]:
    try:
        listener = opened.enter_context(unix_listener(at, _BACKLOG))
    except SocketError as error:
        raise ListenError(f"can't listen on {at}: {error}") from None
    opened.callback(at.path.unlink, missing_ok=True)
    return [listener]


def _listener(family: int, host: str, port: int) -> socket.socket:
    both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    # Accepted connections inherit it. asyncio sets it only on those of a listener that names its protocol, as this
    # one doesn't, and answers would wait for the client's delayed acknowledgements.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
