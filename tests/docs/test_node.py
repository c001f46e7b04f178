"""The commands and the code for Node in the documentation run as pasted."""

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.processes import ROOT
from tests.tools import path_with_node, tool

pytestmark = pytest.mark.once
EXAMPLE = "docs/examples/node"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a fresh checkout as the example needs, and a batch input."""
    shutil.copytree(ROOT / EXAMPLE, tmp_path / EXAMPLE, ignore=shutil.ignore_patterns("node_modules", "types"))
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    lines = re.findall(r"^(\{\"custom_id.*\})$", (ROOT / "README.md").read_text(), re.MULTILINE)
    (tmp_path / "mydata.jsonl").write_text("\n".join(lines))
    return tmp_path


async def pasted(command: str, folder: Path) -> str:
    """What a shell prints for a command; npm has nothing but what is installed."""
    alone = {"npm_config_offline": "true", "npm_config_cache": str(folder / "cache")}
    environ = {**os.environ, "PATH": path_with_node(), **alone}
    ran = await asyncio.create_subprocess_exec(
        "bash", "-eu", "-c", command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(ran.communicate(), 180)
    assert ran.returncode == 0, said.decode()
    return said.decode()


async def test_the_grpc_example_prints_the_results_and_compiles(ports: tuple[int, int], checkout: Path) -> None:
    page = (ROOT / "docs/grpc.md").read_text()
    install, run, types, check = re.findall(r"^    (n(?:pm|ode) .*)$", page, re.MULTILINE)
    # What the tests have pinned, with all that it needs: the install finds that nothing is missing.
    shutil.copytree(tool(".venv-node/node_modules"), checkout / EXAMPLE / "node_modules", symlinks=True)
    await pasted(install, checkout)
    printed = await pasted(f"{run} localhost:{ports[1]}", checkout)
    assert "BATCH_STATUS_COMPLETED, 2 of 2" in printed
    assert re.findall(r'"custom_id":"(.*?)"', printed) == ["task-0", "task-1"]
    await pasted(f"{types}\n{check}", checkout)


async def test_openais_sdk_creates_and_lists_a_batch(ports: tuple[int, int], checkout: Path) -> None:
    (code,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs/sdks.md").read_text(), re.DOTALL)
    (checkout / "node_modules").symlink_to(tool(".venv-node/node_modules"))
    (checkout / "sdk.mjs").write_text(code.replace("localhost:4000", f"localhost:{ports[0]}"))
    status, listed = (await pasted("node sdk.mjs", checkout)).splitlines()
    assert status in {"validating", "in_progress", "finalizing", "completed"}
    assert listed.startswith("batch_")
