"""The programs that the suites use and that aren't Python's: `make test` sets their environments up."""

import os
from pathlib import Path

from tests.processes import ROOT

# A copy of the tree may use the environments of another.
TOOLS = Path(os.environ.get("BATCHYARD_TEST_TOOLS", ROOT))
NODE = ".venv-node"


def tool(path: str) -> Path:
    """A program, or another file, of one of the environments."""
    found = TOOLS / path
    assert found.exists(), f"{found} is missing: run the tests with `make test`, which sets it up"
    return found


def path_with_node() -> str:
    """A PATH on which node and npm are those of the tests."""
    return f"{tool(f'{NODE}/bin/npm').parent}{os.pathsep}{os.environ['PATH']}"
