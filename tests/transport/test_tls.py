"""Over TLS and mTLS: who gets in, and what each side says of certificates that it can't use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tests.authority import Authority, Identity
from tests.harness import KEY, chat_lines, jsonl, refused, settings_for, until
from tests.people import Person
from tests.rest.conftest import rest_client
from tests.sockets import sockets

from batchyard.cli import metrics, shim
from batchyard.cli.errors import RunError
from batchyard.common.certificates import ServerCertificates
from batchyard.common.http.listeners import listening
from batchyard.common.metrics import Metrics
from batchyard.common.pem import CertificateFiles
from batchyard.common.tracing import OFF
from batchyard.service.config.settings import Tls
from batchyard.v1 import BatchServiceStub, ListBatchesRequest

from .conftest import QUICK, Served, over_grpc, served, settings_with

BEARER = (("authorization", f"Bearer {KEY}"),)


@pytest.fixture
async def secure(tmp_path: Path, server_files: Identity) -> AsyncIterator[Served]:
    async with served(settings_with(tmp_path, server_files)) as running:
        yield running


@pytest.fixture
async def mutual(tmp_path: Path, authority: Authority, server_files: Identity) -> AsyncIterator[Served]:
    async with served(settings_with(tmp_path, server_files, authority.ca)) as running:
        yield running


async def status(served: Served, authority: Authority, client: Identity | None = None) -> int:
    """What REST answers. Raises httpx.TransportError."""
    async with served.rest(authority.context(client)) as rest:
        return (await rest.get("/v1/batches")).status_code


class TestTls:
    async def test_a_file_goes_in_over_rest_and_comes_out_over_grpc(self, secure: Served, authority: Authority) -> None:
        content = jsonl(chat_lines(20_000))
        async with secure.rest(authority.context()) as rest:
            form = {"purpose": "batch"}
            made = await rest.post("/v1/files", data=form, files={"file": ("a.jsonl", content)})
            file_id = made.json()["id"]
            assert (await rest.get(f"/v1/files/{file_id}/content")).content == content
        async with over_grpc(secure.server.address, authority) as client:
            assert await client.read(file_id) == content

    async def test_the_log_says_https(self, secure: Served) -> None:
        assert secure.listener.url == f"https://127.0.0.1:{secure.listener.port}"

    async def test_clear_text_is_not_answered(self, secure: Served) -> None:
        async with rest_client(secure.listener.port) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get("/health/liveness")
        async with grpc.aio.insecure_channel(secure.server.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await BatchServiceStub(channel).ListBatches(ListBatchesRequest(), metadata=BEARER, timeout=30)

    async def test_metrics_are_over_tls_too(
        self, tmp_path: Path, authority: Authority, server_files: Identity, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "batchyard")
        async with metrics.opened(settings_with(tmp_path, server_files, metrics_port=0)):
            url = caplog.messages[-1].removeprefix("metrics on ")
            async with httpx.AsyncClient(verify=authority.context(), trust_env=False) as client:
                assert (await client.get(url)).status_code == 200


class TestASlowReader:
    @staticmethod
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        """More than the kernel takes."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (32 << 20)})

    async def test_that_takes_nothing_is_cut_off(self, authority: Authority, server_files: Identity) -> None:
        certificates = ServerCertificates(CertificateFiles(cert=server_files.cert, key=server_files.key))
        async with listening(
            self.answer, "127.0.0.1", 0, max_requests=1, idle_seconds=0.5, certificates=certificates
        ) as listener:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", listener.port, ssl=authority.context(), server_hostname="localhost", limit=1024
            )
            before = sockets()
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")

            async def held() -> int:
                return sockets()

            await until(held, lambda count: count < before)
            writer.transport.abort()


class TestMutualTls:
    async def test_a_client_with_a_certificate_gets_in(self, mutual: Served, authority: Authority) -> None:
        client = authority.identity("client")
        assert await status(mutual, authority, client) == 200
        async with over_grpc(mutual.server.address, authority, client) as caller:
            await caller.stub.ListBatches(ListBatchesRequest(), metadata=BEARER)

    @pytest.mark.parametrize("of", ["nobody", "another authority"])
    async def test_a_client_without_one_does_not(
        self, tmp_path: Path, mutual: Served, authority: Authority, of: str
    ) -> None:
        client = None if of == "nobody" else Authority(tmp_path, "other").identity("stranger")
        with pytest.raises(httpx.TransportError):
            await status(mutual, authority, client)
        async with refused(grpc.StatusCode.UNAVAILABLE), over_grpc(mutual.server.address, authority, client) as caller:
            await caller.stub.ListBatches(ListBatchesRequest(), metadata=BEARER, timeout=30)

    async def test_a_certificate_is_no_key(self, mutual: Served, authority: Authority) -> None:
        async with mutual.rest(authority.context(authority.identity("client"))) as rest:
            assert (await rest.get("/v1/batches", headers={"authorization": "Bearer sk-wrong"})).status_code == 401


class TestAShimAlone:
    @asynccontextmanager
    async def alone(self, served: Served, folder: Path, tls: Tls) -> AsyncIterator[Served]:
        """A shim in clear text before a service that speaks TLS."""
        settings = settings_for(folder, tls=tls)
        target = f"localhost:{served.server.grpc_port}"
        async with shim.alone(settings, target, Metrics(), OFF) as listener:
            yield Served(listener, served.server)

    async def readiness(self, shim: Served) -> int:
        async with shim.rest() as rest:
            return (await rest.get("/health/readiness")).status_code

    async def test_it_shows_its_own_certificate(self, tmp_path: Path, mutual: Served, authority: Authority) -> None:
        own = authority.identity("shim")
        tls = Tls(ca_file=authority.ca, client_cert_file=own.cert, client_key_file=own.key)
        async with self.alone(mutual, tmp_path, tls) as shim:
            assert await self.readiness(shim) == 200

    async def test_it_is_not_ready_while_it_trusts_another(
        self, tmp_path: Path, secure: Served, authority: Authority
    ) -> None:
        trusted = Authority(tmp_path, "other").ca
        async with self.alone(secure, tmp_path, Tls(ca_file=trusted, reload_seconds=QUICK)) as shim:
            assert await self.readiness(shim) == 503
            trusted.write_bytes(authority.pem)
            await until(lambda: self.readiness(shim), lambda status: status == 200)

    async def test_it_is_not_ready_without_a_certificate(
        self, tmp_path: Path, mutual: Served, authority: Authority
    ) -> None:
        async with self.alone(mutual, tmp_path, Tls(ca_file=authority.ca)) as shim:
            assert await self.readiness(shim) == 503


class TestThePeoplesCommand:
    async def test_it_calls_a_service_over_tls(self, tmp_path: Path, mutual: Served, authority: Authority) -> None:
        person, own = Person(mutual.server.grpc_port, tmp_path), authority.identity("person")
        files = ("--client-cert-file", str(own.cert), "--client-key-file", str(own.key))
        told = await person.run("list", *files, BATCHYARD_TLS__CA_FILE=str(authority.ca))
        assert (told.code, told.err) == (0, "")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--client-cert-file", "c"], "a client's certificate needs --ca-file, --client-cert-file and"),
            (["--ca-file", "nowhere"], "nowhere: No such file or directory"),
        ],
    )
    async def test_files_that_it_cannot_use_are_one_line(self, tmp_path: Path, options: list[str], said: str) -> None:
        told = await Person(1, tmp_path).run("list", *options)
        assert (told.code, told.err.startswith(f"batchyard: {said}")) == (1, True)


class TestTheStart:
    @pytest.mark.parametrize(
        ("broken", "said"),
        [
            ("a missing key", "first.key: No such file or directory"),
            ("another's key", "are not a certificate and its key (KEY_VALUES_MISMATCH)"),
            ("an encrypted key", "are not a certificate and its key ("),
            ("half a certificate", "are not a certificate and its key ("),
            ("no authority", "ca.pem has no certificates ("),
        ],
    )
    async def test_files_that_do_not_fit_are_refused(
        self, tmp_path: Path, authority: Authority, server_files: Identity, broken: str, said: str
    ) -> None:
        match broken:
            case "a missing key":
                server_files.key.unlink()
            case "another's key":
                server_files.key.write_bytes(authority.pair("other").key)
            case "an encrypted key":
                server_files.key.write_bytes(authority.pair("first", b"hunter2").key)
            case "half a certificate":
                server_files.cert.write_bytes(server_files.cert.read_bytes()[:300])
            case _:
                authority.ca.write_bytes(b"")
        settings = settings_with(tmp_path, server_files, authority.ca)
        with pytest.raises(RunError) as of_grpc:
            async with served(settings):
                pass
        with pytest.raises(RunError) as of_rest:
            async with shim.alone(settings, "localhost:1", Metrics(), OFF):
                pass
        assert said in str(of_rest.value)
        assert str(of_grpc.value) == f"gRPC can't listen: {of_rest.value}"
