"""The REST API against its own description: schemathesis reads it and makes the calls, good and bad ones."""

import asyncio
import os
import re
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.harness import KEY, until
from tests.leaks import resident_bytes
from tests.processes import ROOT, batchyard, configure
from tests.soak import MIB, MOST_GROWTH, Held
from tests.tasks import tasks
from tests.tools import tool

from .inputs import examples

CONFIG = ROOT / ".ci" / "schemathesis.toml"
# All but the description itself, which schemathesis reads and leaves at that.
POOLED = 8  # threads that the pools may still add where two calls first coincide; a leak would be one a call
OPERATIONS = (ROOT / "tests/shim/routes.txt").read_text().count("\n") - 1
WARMING = ["--include-path-regex", "^/(v1/|health)", "--phases", "coverage"]
MOST_SECONDS = 600
MOST_EXAMPLES = 100  # of each operation: about two minutes


async def test_every_answer_is_as_the_description_says(tmp_path: Path) -> None:
    """Each operation in each form of its path; no server error, no status, header or body that is not described.

    One form of each operation comes first: it fills the server's pools, and the others must find all that they need.
    """
    configure(tmp_path, echo=True)
    with batchyard(tmp_path, "serve", module="tests.tasks") as server:
        port = await server.port("REST on")
        assert await operations_tested(tmp_path, port, *WARMING) > 0
        before, running = Held.by(server), await tasks(server)

        async def more() -> str:
            now = Held.by(server)
            threads = now.threads - before.threads
            left = (now.descriptors - before.descriptors, await tasks(server) - running)
            return " ".join(str(one) for one in (threads if threads.total() > POOLED else "", *left) if one)

        count = min(examples(3), MOST_EXAMPLES)
        assert await operations_tested(tmp_path, port, "--max-examples", str(count)) == OPERATIONS
        await until(more, lambda left: not left, every=0.1)
        growth = resident_bytes(server.pid) - before.resident
    assert growth <= MOST_GROWTH, f"{growth / MIB:.1f} MiB"


async def operations_tested(folder: Path, port: int, *options: str) -> int:
    """How many operations a run of schemathesis tested; it must find nothing."""
    process = await asyncio.create_subprocess_exec(
        *(tool(".venv-schemathesis/bin/st"), "--config-file", CONFIG, "run", f"http://127.0.0.1:{port}/openapi.json"),
        *("--no-color", *options),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "BATCHYARD_TEST_KEY": KEY},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(MOST_SECONDS):
            out, err = (text.decode() for text in await process.communicate())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out[-8000:] + err[-2000:]
    (found,) = re.findall(r"^  Tested: +(\d+)$", out, re.MULTILINE)
    return int(found)
