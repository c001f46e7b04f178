import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.authority import Authority, Identity
from tests.harness import service, settings_for
from tests.transport.conftest import served as served_with

from batchyard.common.http.listeners import listening
from batchyard.service.config.settings import LocalSettings, Tls
from batchyard.shim.app import create_app
from batchyard.shim.caller import connect

PATIENCE = 300.0


@dataclass
class Served:
    """A running service and shim, which answer in this process."""

    rest: str
    grpc: str


# A line takes a moment, so that a batch can be cancelled while it runs.
_LOCAL = LocalSettings(echo=True, echo_delay_ms=20)


@dataclass
class Secure:
    """A running service and shim that speak TLS; `ca` is what clients trust, `client` what one may show."""

    rest: str
    ca: Path
    client: Identity


@pytest.fixture
async def secure(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Secure]:
    """Where the parameter is true, clients need a certificate."""
    authority = Authority(tmp_path)
    shown, client_ca = authority.identity("server"), authority.ca if request.param else None
    tls = Tls(cert_file=shown.cert, key_file=shown.key, client_ca_file=client_ca)
    async with served_with(settings_for(tmp_path, local=_LOCAL, tls=tls)) as running:
        yield Secure(f"{running.listener.url}/v1", authority.ca, authority.identity("client"))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    settings = settings_for(tmp_path, local=_LOCAL)
    async with (
        service(settings) as (server, _),
        connect(f"127.0.0.1:{server.grpc_port}") as caller,
        listening(create_app(caller), "127.0.0.1", 0, max_requests=1000) as listener,
    ):
        yield Served(f"http://127.0.0.1:{listener.port}/v1", f"http://127.0.0.1:{server.grpc_port}")


async def ran(
    *command: str | Path, cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[int | None, str, str]:
    """The exit code, stdout and stderr of a command, whose environment has nothing but a PATH and `environ`."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode, out.decode(), err.decode()


async def passes(checks: set[str], *command: str | Path, **environ: str) -> None:
    """Runs a suite, which says "ok NAME" for each of its checks that passed; all of these must."""
    code, said, complaints = await ran(*command, environ=environ)
    passed = {line.removeprefix("ok ") for line in said.splitlines() if line.startswith("ok ")}
    assert checks
    assert (code, checks - passed) == (0, set()), said + complaints
