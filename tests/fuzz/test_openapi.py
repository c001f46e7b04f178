"""The REST API against its own description: schemathesis reads it and makes the calls, good and bad ones.

It calls with one tenant's key, while another has what must never show.
"""

import asyncio
import json
import os
import re
from asyncio.subprocess import PIPE
from base64 import b64decode
from pathlib import Path

import grpc
import httpx
from tests.harness import Client, chat_lines, jsonl, until
from tests.leaks import resident_bytes
from tests.processes import ROOT, batchyard, configure
from tests.rest.conftest import batch_request
from tests.soak import MIB, MOST_GROWTH, Held
from tests.tasks import tasks
from tests.tools import tool

from .inputs import examples

CONFIG = ROOT / ".ci" / "schemathesis.toml"
# All but the description itself, which schemathesis reads and leaves at that.
OTHER = "secret-of-another"
POOLED = 8  # threads that the pools may still add where two calls first coincide; a leak would be one a call
OPERATIONS = (ROOT / "tests/shim/routes.txt").read_text().count("\n") - 1
WARMING = ["--include-path-regex", "^/(v1/|health)", "--phases", "coverage"]
MOST_SECONDS = 600
MOST_EXAMPLES = 100  # of each operation: about two minutes


async def test_every_answer_is_as_the_description_says(tmp_path: Path) -> None:
    """Each operation in each form of its path; no server error, no status, header or body that is not described.

    One form of each operation comes first, as the other tenant: it fills the server's pools, and the others must find
    all that they need.
    """
    configure(tmp_path, echo=True)
    with batchyard(tmp_path, "serve", module="tests.tasks") as server:
        port = await server.port("REST on")
        mine, theirs = [await new_key(await server.port(), tenant) for tenant in ("team-a", "team-b")]
        assert await operations_tested(tmp_path, port, theirs, *WARMING) > 0
        secrets = await furnished(port, theirs)
        before, running = Held.by(server), await tasks(server)

        async def more() -> str:
            now = Held.by(server)
            threads = now.threads - before.threads
            left = (now.descriptors - before.descriptors, await tasks(server) - running)
            return " ".join(str(one) for one in (threads if threads.total() > POOLED else "", *left) if one)

        count = min(examples(2), MOST_EXAMPLES)
        recorded = ("--report", "har", "--report-har-path", "calls.har")
        assert await operations_tested(tmp_path, port, mine, "--max-examples", str(count), *recorded) == OPERATIONS
        await until(more, lambda left: not left, every=0.1)
        shown = answers(tmp_path / "calls.har")
        assert any('"object":"list"' in answer for answer in shown)
        assert not [secret for secret in secrets for answer in shown if secret in answer]
        assert await furnished(port, theirs) >= secrets  # nor is any of it gone
        growth = resident_bytes(server.pid) - before.resident
    assert growth <= MOST_GROWTH, f"{growth / MIB:.1f} MiB"


async def new_key(port: int, tenant: str) -> str:
    """The secret of a new key of a tenant."""
    async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
        return (await Client(channel).new_key(tenant))[1]


async def furnished(port: int, key: str) -> set[str]:
    """The ids of all that a tenant has, and its name; with a file and a batch more than before."""
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=f"http://localhost:{port}/v1", headers=headers, trust_env=False) as client:
        files = {"file": (f"{OTHER}.jsonl", jsonl(chat_lines(1)))}
        made = (await client.post("/files", data={"purpose": "batch"}, files=files)).json()
        assert (await client.post("/batches", json=batch_request(made["id"]))).status_code == 200
        pages = [(await client.get(path)).json()["data"] for path in ("/files", "/batches?limit=100")]
    return {OTHER, *(one["id"] for page in pages for one in page)}


def answers(har: Path) -> list[str]:
    """The bodies of all answers that schemathesis got."""
    contents = [entry["response"]["content"] for entry in json.loads(har.read_text())["log"]["entries"]]
    return [
        b64decode(one["text"]).decode(errors="replace") if one.get("encoding") == "base64" else one.get("text", "")
        for one in contents
    ]


async def operations_tested(folder: Path, port: int, key: str, *options: str) -> int:
    """How many operations a run of schemathesis tested; it must find nothing."""
    process = await asyncio.create_subprocess_exec(
        *(tool(".venv-schemathesis/bin/st"), "--config-file", CONFIG, "run", f"http://127.0.0.1:{port}/openapi.json"),
        *("--no-color", *options),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "BATCHYARD_TEST_KEY": key},
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
