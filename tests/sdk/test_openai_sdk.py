"""The official Python SDK, in both of its major versions, works unchanged: here over TLS, elsewhere in clear text."""

import re
from pathlib import Path

import pytest
from tests.harness import KEY
from tests.tools import tool

from .conftest import Secure, passes

pytestmark = pytest.mark.once
SUITE = Path(__file__).parent / "suite.py"
CHECKS = set(re.findall(r"^def (check_\w+)", SUITE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("secure", [False], indirect=True)
async def test_the_sdk_passes_its_suite_over_tls(secure: Secure) -> None:
    await passes(CHECKS, tool(".venv-openai2/bin/python"), SUITE, secure.rest, KEY, SSL_CERT_FILE=str(secure.ca))


@pytest.mark.parametrize("secure", [True], indirect=True)
async def test_the_sdk_passes_its_suite_over_mutual_tls(secure: Secure) -> None:
    files = {"SUITE_CA": secure.ca, "SUITE_CERT": secure.client.cert, "SUITE_KEY": secure.client.key}
    environ = {name: str(path) for name, path in files.items()}
    await passes(CHECKS, tool(".venv-openai3/bin/python"), SUITE, secure.rest, KEY, **environ)
