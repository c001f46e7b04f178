"""Service and shim as `serve` puts them together, in this process, with certificates."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tests.authority import Authority, Identity, name_of
from tests.harness import KEY, Client, plain_client, settings_for
from tests.rest.conftest import BEARER

from batchyard.cli import service, shim
from batchyard.common.http.listeners import Listener
from batchyard.common.metrics import Metrics
from batchyard.common.tracing import OFF
from batchyard.service.config.settings import Settings, Tls
from batchyard.service.server import Server

QUICK = 0.02  # seconds between two looks at the files


@dataclass
class Served:
    """A front door."""

    listener: Listener
    server: Server

    def rest(self, context: ssl.SSLContext | None = None) -> httpx.AsyncClient:
        """A client with connections of its own."""
        url, transport = self.listener.url, None
        if url.startswith("unix:"):
            transport, url = httpx.AsyncHTTPTransport(uds=url.removeprefix("unix:")), "http://localhost"
        if context is None:
            return plain_client(base_url=url, headers=BEARER, transport=transport, timeout=30)
        return httpx.AsyncClient(base_url=url, headers=BEARER, verify=context, trust_env=False, timeout=30)


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[Served]:
    keyless = not (settings.master_key or settings.keys)
    async with (
        service.opened(settings, Metrics(), OFF) as server,
        shim.opened(settings, server.caller, Metrics(), OFF, keyless=keyless) as listener,
    ):
        yield Served(listener, server)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server_files(authority: Authority) -> Identity:
    return authority.identity("first")


def settings_with(folder: Path, shown: Identity, client_ca: Path | None = None, **changes: Any) -> Settings:
    """Settings of servers that show a certificate."""
    tls = Tls(cert_file=shown.cert, key_file=shown.key, client_ca_file=client_ca, reload_seconds=QUICK)
    return settings_for(folder, tls=tls, **changes)


@asynccontextmanager
async def over_grpc(target: str, authority: Authority, client: Identity | None = None) -> AsyncIterator[Client]:
    """A client with a connection of its own, over TLS."""
    key, cert = (client.key.read_bytes(), client.cert.read_bytes()) if client else (None, None)
    trusted = grpc.ssl_channel_credentials(authority.pem, key, cert)
    alone = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    async with grpc.aio.secure_channel(target, trusted, options=alone) as channel:
        yield Client(channel, KEY)


async def shown_at(port: int, protocol: str, client: ssl.SSLContext) -> str:
    """The name in the certificate that a server shows."""
    client.set_alpn_protocols([protocol])

    def look() -> str:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as connection,
            client.wrap_socket(connection, server_hostname="localhost") as secure,
        ):
            return name_of(secure.getpeercert(binary_form=True) or b"")

    return await asyncio.to_thread(look)
