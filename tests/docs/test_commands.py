"""The README's commands and the examples run as pasted, against `batchyard serve` on free ports."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.processes import ROOT, process


@pytest.fixture
async def ports(tmp_path: Path) -> AsyncIterator[tuple[int, int]]:
    """REST's and gRPC's, of a server with the development configuration."""
    options = ["--config", "service/batchyard/cli/development.yaml", "--data-dir", str(tmp_path / "data")]
    options += ["--port", "0", "--grpc-port", "0"]
    with process(tmp_path / "log", "batchyard.cli.main", "serve", *options) as served:
        yield await served.port("REST on"), await served.port("gRPC on")


async def pasted(script: str, ports: tuple[int, int], folder: Path) -> str:
    """What a shell prints for a script, with this server's ports and this Python."""
    for printed, real in zip(("localhost:4000", "localhost:50051"), ports, strict=True):
        script = script.replace(printed, f"localhost:{real}")
    script = script.replace(".venv/bin/python", sys.executable).replace("docs/examples", str(ROOT / "docs/examples"))
    ran = await asyncio.create_subprocess_exec(
        "bash", "-eu", "-c", script, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, complaints = await asyncio.wait_for(ran.communicate(), 60)
    assert ran.returncode == 0, complaints.decode()
    return said.decode()


async def test_the_readmes_commands_take_a_batch_from_upload_to_results(ports: tuple[int, int], tmp_path: Path) -> None:
    rest, grpc = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    printed = await pasted(rest, ports, tmp_path)
    assert '"custom_id":"task-0"' in printed
    assert '"content":"What is Altair Basic?"' in printed
    assert "BATCH_STATUS_COMPLETED" in await pasted(grpc, ports, tmp_path)


async def test_the_grpc_example_prints_the_results(ports: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "mydata.jsonl").write_text(re.findall(r"(\{\"custom_id.*\})", (ROOT / "README.md").read_text())[0])
    (command,) = re.findall(r"^    (\.venv/bin/python .*)$", (ROOT / "docs/grpc.md").read_text(), re.MULTILINE)
    printed = await pasted(f"{command} localhost:50051", ports, tmp_path)
    assert "BATCH_STATUS_COMPLETED, 1 of 1" in printed
    assert '"custom_id":"task-0"' in printed
