"""The official SDK for Node works unchanged."""

import re
import shutil
from pathlib import Path

import pytest
from tests.harness import KEY
from tests.tools import tool

from .conftest import Served, passes

pytestmark = pytest.mark.once
SUITE = Path(__file__).parent / "node/suite.mjs"
CHECKS = set(re.findall(r"^check\('(.*)',", SUITE.read_text(), re.MULTILINE))


async def test_the_sdk_passes_its_suite(served: Served, tmp_path: Path) -> None:
    suite = shutil.copy(SUITE, tmp_path)
    (tmp_path / "node_modules").symlink_to(tool(".venv-node/node_modules"))
    await passes(CHECKS, tool(".venv-node/bin/node"), suite, served.rest, KEY)
