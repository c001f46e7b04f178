import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.harness import service, settings_for

from batchyard.common.listeners import listening
from batchyard.service.settings import LocalSettings
from batchyard.shim.app import create_app
from batchyard.shim.caller import connect

PATIENCE = 300.0


@dataclass
class Served:
    """A running service and shim, which answer in this process."""

    rest: str
    grpc: str


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    # A line takes a moment, so that a batch can be cancelled while it runs.
    settings = settings_for(tmp_path, local=LocalSettings(echo=True, echo_delay_ms=20))
    async with (
        service(settings) as (server, _),
        connect(f"127.0.0.1:{server.grpc_port}") as caller,
        listening(create_app(caller), "127.0.0.1", 0, max_requests=1000) as listener,
    ):
        yield Served(f"http://127.0.0.1:{listener.port}/v1", f"http://127.0.0.1:{server.grpc_port}")


async def ran(*command: str | Path, cwd: Path | None = None, path: str | None = None) -> tuple[int | None, str, str]:
    """The exit code, stdout and stderr of a command, whose environment has nothing but a PATH."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env={"PATH": path or os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode, out.decode(), err.decode()


async def passes(checks: set[str], *command: str | Path) -> None:
    """Runs a suite, which says "ok NAME" for each of its checks that passed; all of these must."""
    code, said, complaints = await ran(*command)
    passed = {line.removeprefix("ok ") for line in said.splitlines() if line.startswith("ok ")}
    assert checks
    assert (code, checks - passed) == (0, set()), said + complaints
