"""The REST API against its own description: schemathesis reads it and makes the calls, good and bad ones."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.harness import KEY
from tests.processes import ROOT, batchyard, configure
from tests.tools import tool

from .inputs import examples

CONFIG = ROOT / ".ci" / "schemathesis.toml"
MOST_SECONDS = 600
MOST_EXAMPLES = 100  # of each operation: about two minutes


@pytest.mark.once
async def test_every_answer_is_as_the_description_says(tmp_path: Path) -> None:
    """Each operation in each form of its path; no server error, no status, header or body that is not described."""
    configure(tmp_path, echo=True)
    with batchyard(tmp_path, "serve") as server:
        url = f"http://127.0.0.1:{await server.port('REST on')}/openapi.json"
        command: list[str | Path] = [tool(".venv-schemathesis/bin/st"), "--config-file", CONFIG, "run", url]
        ran = subprocess.run(
            [*command, "--no-color", "--max-examples", str(min(examples(5), MOST_EXAMPLES))],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "BATCHYARD_TEST_KEY": KEY},
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
        )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert "Tested: 0" not in ran.stdout
