"""The official Python SDK, in both of its major versions, works unchanged."""

from pathlib import Path

import pytest
from tests.harness import KEY

from .conftest import Served, ran, tool

SUITE = Path(__file__).parent / "suite.py"
CHECKS = {
    line.removeprefix("def ").partition("(")[0]
    for line in SUITE.read_text().splitlines()
    if line.startswith("def check_")
}


@pytest.mark.parametrize("version", ["2", "3"])
async def test_the_sdk_passes_its_suite(served: Served, version: str) -> None:
    python = tool(f".venv-openai{version}/bin/python")
    code, said, complaints = await ran(python, SUITE, served.rest, KEY)
    passed = {line.removeprefix("ok ") for line in said.splitlines() if line.startswith("ok ")}
    assert CHECKS - passed == set(), said + complaints
    assert code == 0
