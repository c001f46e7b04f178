"""Types for TypeScript, generated from the contract as the example for Node does it, fit what callers write."""

import json
import shutil
from pathlib import Path

import pytest
from tests.processes import ROOT
from tests.tools import path_with_node, tool

from .conftest import ran

pytestmark = pytest.mark.once
EXAMPLE = "docs/examples/node"


@pytest.fixture
async def example(tmp_path: Path) -> Path:
    """The example, with types generated from today's contract."""
    folder = tmp_path / EXAMPLE
    shutil.copytree(ROOT / EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "types"))
    (folder / "node_modules").symlink_to(tool(".venv-node/node_modules"))
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    assert await script(folder, "types") == (0, "", "")
    return folder


async def script(folder: Path, name: str) -> tuple[int | None, str, str]:
    """Runs one of the example's npm scripts."""
    return await ran("npm", "run", "--silent", name, cwd=folder, environ={"PATH": path_with_node()})


async def test_the_example_compiles(example: Path) -> None:
    assert await script(example, "check") == (0, "", "")


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("completionWindow:", "completionwindow:", "'completionwindow' does not exist"),
        ("finish: { size }", "finish: { size: true }", "'true' is not assignable"),
        ("batch.status}", "batch.status === 'DONE'}", "no overlap"),
        ("service.watchBatch(", "service.followBatch(", "'followBatch' does not exist"),
    ],
)
async def test_what_the_contract_does_not_have_does_not_compile(
    example: Path, right: str, wrong: str, complaint: str
) -> None:
    client = example / "client.ts"
    assert right in client.read_text()
    client.write_text(client.read_text().replace(right, wrong))
    code, said, _ = await script(example, "check")
    assert code != 0
    assert complaint in said


def test_the_example_is_tested_with_the_versions_that_it_asks_for() -> None:
    tested = json.loads((ROOT / ".ci/package.json").read_text())["dependencies"]
    asked = json.loads((ROOT / EXAMPLE / "package.json").read_text())
    assert asked["dependencies"] | asked["devDependencies"] == {
        name: tested[name] for name in tested if name != "openai"
    }
