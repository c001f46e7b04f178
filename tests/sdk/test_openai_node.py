"""The official SDK for Node works unchanged: here over TLS, elsewhere in clear text."""

import re
import shutil
from pathlib import Path

import pytest
from tests.harness import KEY
from tests.tools import tool

from .conftest import Secure, passes

pytestmark = pytest.mark.once
SUITE = Path(__file__).parent / "node/suite.mjs"
CHECKS = set(re.findall(r"^check\('(.*)',", SUITE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("secure", [False], indirect=True)
async def test_the_sdk_passes_its_suite_over_tls(secure: Secure, tmp_path: Path) -> None:
    suite = shutil.copy(SUITE, tmp_path)
    (tmp_path / "node_modules").symlink_to(tool(".venv-node/node_modules"))
    command = (tool(".venv-node/bin/node"), suite, secure.rest, KEY)
    await passes(CHECKS, *command, NODE_EXTRA_CA_CERTS=str(secure.ca))
