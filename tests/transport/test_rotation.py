"""Certificates are replaced while calls come, and none of them fails."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.authority import Authority, Identity
from tests.harness import KEY, until

from batchyard.common import channels
from batchyard.common.pem import CertificateFiles
from batchyard.v1 import ListBatchesRequest

from .conftest import QUICK, Served, over_grpc, served, settings_with, shown_at

BEARER = (("authorization", f"Bearer {KEY}"),)


class Load:
    """Calls that begin on new connections, one after the other, over REST and gRPC."""

    def __init__(self, served: Served, authority: Authority, client: Identity) -> None:
        self.calls = 0
        self.failures: list[Exception] = []
        self._served = served
        self._authority = authority
        self._client = client
        self._context = authority.context(client)
        self.over = False

    async def rest(self) -> None:
        async with self._served.rest(self._context) as client:
            (await client.get("/v1/batches?limit=1")).raise_for_status()

    async def grpc(self) -> None:
        async with over_grpc(self._served.server.address, self._authority, self._client) as client:
            await client.stub.ListBatches(ListBatchesRequest(limit=1), metadata=BEARER, timeout=30)

    async def run(self, call: Callable[[], Awaitable[None]]) -> None:
        while not self.over:
            try:
                await call()
            except Exception as error:
                self.failures.append(error)
            self.calls += 1


async def shown(served: Served, context: ssl.SSLContext) -> set[str]:
    """The names in the certificates of both listeners."""
    ports = ((served.listener.port, "http/1.1"), (served.server.grpc_port, "h2"))
    return {await shown_at(port, protocol, context) for port, protocol in ports}


async def test_certificates_are_rotated_under_load_without_a_failed_call(
    tmp_path: Path, authority: Authority, server_files: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    client = authority.identity("client")
    async with served(settings_with(tmp_path, server_files, authority.ca)) as running:
        load, context = Load(running, authority, client), authority.context(client)
        tasks = [asyncio.create_task(load.run(call)) for call in (load.rest, load.grpc, load.rest, load.grpc)]
        for number in range(5):
            before = load.calls
            if number == 2:
                await _half_written(authority, server_files, caplog)
            server_files.write(authority.pair(f"rotated-{number}"))
            await until(lambda: shown(running, context), lambda names, n=number: names == {f"rotated-{n}"})  # type: ignore[misc]
            await until(_count(load), lambda calls, least=before + 8: calls >= least)  # type: ignore[misc]
        load.over = True  # a handshake that is broken off leaves a connection
        await asyncio.gather(*tasks)
    assert load.failures == []
    assert load.calls >= 40


async def test_an_authority_that_is_replaced_lets_its_clients_in_and_the_old_ones_no_more(
    tmp_path: Path, authority: Authority, server_files: Identity
) -> None:
    (tmp_path / "new").mkdir()
    trusted = Authority(tmp_path / "new")
    old, new = authority.identity("old"), trusted.identity("new")
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.pem)
    async with served(settings_with(tmp_path, server_files, clients)) as running:
        before = Load(running, authority, old)
        await asyncio.gather(before.rest(), before.grpc())
        clients.write_bytes(trusted.pem)

        async def letters_in(client: Identity) -> list[bool]:
            load = Load(running, authority, client)
            ended = await asyncio.gather(load.rest(), load.grpc(), return_exceptions=True)
            return [error is None for error in ended]

        await until(lambda: letters_in(new), all)
        assert await letters_in(old) == [False, False]


async def test_a_call_of_a_client_goes_on_when_its_certificate_is_replaced(
    tmp_path: Path, authority: Authority, server_files: Identity
) -> None:
    own, health = authority.identity("client"), health_pb2.HealthCheckRequest()
    files = CertificateFiles(cert=own.cert, key=own.key, ca=authority.ca)
    async with (
        served(settings_with(tmp_path, server_files, authority.ca)) as running,
        channels.opened(running.server.address, channels.OPTIONS, files, QUICK) as channel,
    ):
        first = channel.latest
        watch = health_pb2_grpc.HealthStub(first).Watch(health)
        await watch.read()
        own.write(authority.pair("client"))

        async def latest() -> grpc.aio.Channel:
            return channel.latest

        replaced = await until(latest, lambda now: now is not first)
        await health_pb2_grpc.HealthStub(replaced).Check(health, timeout=30)
        assert not watch.done()


def _count(load: Load) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        return load.calls

    return count


async def _half_written(authority: Authority, files: Identity, caplog: pytest.LogCaptureFixture) -> None:
    """A key that is not the certificate's, and half of a certificate, until both servers have said so."""
    cert, key = authority.pair("half-written")
    for content in (cert[: len(cert) // 2], cert):
        files.key.write_bytes(key)
        files.cert.write_bytes(content if content != cert else authority.pair("other").cert)

        async def warned() -> set[str]:
            return {record.server for record in caplog.records if record.levelname == "WARNING"}  # type: ignore[attr-defined]

        await until(warned, lambda servers: servers == {"REST", "gRPC"})
        assert key.decode() not in caplog.text
        caplog.clear()
