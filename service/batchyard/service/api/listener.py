"""Where the gRPC server listens: a port or a Unix socket."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from grpc import aio

from batchyard.common.addresses import address
from batchyard.common.certificates import ServerCertificates, serving_with
from batchyard.common.sockets import SocketError, UnixSocket
from batchyard.service.config.settings import Settings


class PortError(Exception):
    """The port can't be had; the text says why."""


@dataclass(frozen=True)
class Ports:
    """`address` is for callers, on `port` (0: a Unix socket)."""

    port: int
    address: str


@asynccontextmanager
async def opened(settings: Settings, server: aio.Server) -> AsyncIterator[Ports]:
    """The ports of a server that has not started. Raises CertificateError, SocketError, PortError, RuntimeError."""
    at, tls = settings.service_socket, settings.tls
    async with serving_with(None if at else tls.server, "gRPC", tls.reload_seconds) as certificates:
        port = 0 if at else _on_host(server, settings, certificates)
        where = str(at) if at else address(settings.host, port)
        if at:
            _on_socket(server, at)
        yield Ports(port, where)


def _on_host(server: aio.Server, settings: Settings, certificates: ServerCertificates | None) -> int:
    target = address(settings.host, settings.grpc_port)
    _check_free(settings.host, settings.grpc_port)
    if certificates is None:
        return server.add_insecure_port(target)
    return server.add_secure_port(target, certificates.for_grpc())


def _check_free(host: str, port: int) -> None:
    """Raises PortError where no address of `host` has the port free: gRPC only says that it failed, not why."""
    with suppress(socket.gaierror):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        reasons = [_refusal(family, name) for family, *_, name in found]
        if reasons and all(reasons):
            raise PortError(f"can't listen on {address(host, port)}: {reasons[0]}")


def _refusal(family: int, name: Any) -> str:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(name)
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def _on_socket(server: aio.Server, at: UnixSocket) -> None:
    try:
        with at.bound():
            server.add_insecure_port(at.target)
    except RuntimeError:
        raise SocketError(f"{at.path} can't be a socket") from None
