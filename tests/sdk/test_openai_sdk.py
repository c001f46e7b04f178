"""The official Python SDK, in both of its major versions, works unchanged."""

import re
from pathlib import Path

import pytest
from tests.harness import KEY
from tests.tools import tool

from .conftest import Served, passes

pytestmark = pytest.mark.once
SUITE = Path(__file__).parent / "suite.py"
CHECKS = set(re.findall(r"^def (check_\w+)", SUITE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("version", ["2", "3"])
async def test_the_sdk_passes_its_suite(served: Served, version: str) -> None:
    await passes(CHECKS, tool(f".venv-openai{version}/bin/python"), SUITE, served.rest, KEY)
