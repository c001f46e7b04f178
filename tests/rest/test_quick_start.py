"""The Quick Start that users of OpenAI's API know, typed as written, against what `make run` starts."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.harness import until
from tests.processes import ROOT, Process

from .conftest import BATCH_KEYS, ENDED_WORDS, FILE_KEYS

UPLOAD = """\
curl http://localhost:4000/v1/files \\
-H "Authorization: Bearer sk-1234" \\
-F purpose="batch" \\
-F file="@mydata.jsonl"
"""
CREATE = """\
curl http://localhost:4000/v1/batches \\
-H "Authorization: Bearer sk-1234" \\
-H "Content-Type: application/json" \\
-d '{
"input_file_id": "file-abc123",
"endpoint": "/v1/chat/completions",
"completion_window": "24h"
}'
"""
RETRIEVE = """\
curl http://localhost:4000/v1/batches/batch_abc123 \\
-H "Authorization: Bearer sk-1234" \\
-H "Content-Type: application/json" \\

"""
LIST = """\
curl http://localhost:4000/v1/batches \\
-H "Authorization: Bearer sk-1234" \\
-H "Content-Type: application/json" \\

"""
LIST_TWO = 'curl http://localhost:4000/v1/batches?limit=2 -H "Authorization: Bearer sk-1234"'
CONTENT = 'curl http://localhost:4000/v1/files/file-abc123/content -H "Authorization: Bearer sk-1234"'
DATA = """\
{"custom_id": "task-0", "method": "POST", "url": "/chat/completions", "body": {"model": "REPLACE-WITH-MODEL-DEPLOYMENT-NAME", "messages": [{"role": "system", "content": "You are an AI assistant that helps people find information."}, {"role": "user", "content": "When was Microsoft founded?"}]}}
{"custom_id": "task-1", "method": "POST", "url": "/chat/completions", "body": {"model": "REPLACE-WITH-MODEL-DEPLOYMENT-NAME", "messages": [{"role": "system", "content": "You are an AI assistant that helps people find information."}, {"role": "user", "content": "When was the first XBOX released?"}]}}
{"custom_id": "task-2", "method": "POST", "url": "/chat/completions", "body": {"model": "REPLACE-WITH-MODEL-DEPLOYMENT-NAME", "messages": [{"role": "system", "content": "You are an AI assistant that helps people find information."}, {"role": "user", "content": "What is Altair Basic?"}]}}
"""  # noqa: E501
NONSENSE = {
    "OPENAI_API_KEY": "nonsense", "OPENAI_BASE_URL": "nonsense://", "OPENAI_ORGANIZATION": "nonsense",
    "AZURE_API_KEY": "nonsense", "AZURE_API_BASE": "nonsense://", "AZURE_API_VERSION": "nonsense",
    "AZURE_AD_TOKEN": "nonsense", "LITELLM_MASTER_KEY": "nonsense", "LITELLM_API_KEY": "nonsense",
}  # fmt: skip
UNSET = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")


@contextmanager
def made_to_run(folder: Path, environ: dict[str, str]) -> Iterator[Process]:
    """What `make run` runs, on free ports, with its data in `folder` and more in its environment."""
    found = re.search(r"/batchyard (serve .*) \$\(ARGS\)", (ROOT / "Makefile").read_text())
    assert found
    options = [*found[1].split(), "--port", "0", "--grpc-port", "0", "--data-dir", str(folder / "data")]
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "batchyard.cli.main", *options]
        popen = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environ}, stdout=log, stderr=log)
    served = Process(popen, folder / "log")
    try:
        yield served
    finally:
        served.kill()


@pytest.fixture(params=[{}, NONSENSE], ids=["clean", "nonsense"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Process]:
    with made_to_run(tmp_path, request.param) as process:
        yield process


class Shell:
    """Runs commands as a user types them, with this server's port."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        self._folder = folder
        (folder / "mydata.jsonl").write_text(DATA)

    async def run(self, command: str, **ids: str) -> bytes:
        """What the command prints; `ids` replace those of the page."""
        command = command.replace(":4000", f":{self._port}").replace("localhost", "127.0.0.1")
        for name, real in ids.items():
            command = command.replace(f"{name}-abc123", real).replace(f"{name}_abc123", real)
        ran = await asyncio.create_subprocess_exec(
            *("bash", "-c", command),
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "no_proxy": "*"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        said, complaints = await asyncio.wait_for(ran.communicate(), 60)
        assert ran.returncode == 0, complaints.decode()
        return said

    async def read(self, command: str, **ids: str) -> dict[str, Any]:
        return dict(json.loads(await self.run(command, **ids)))


async def test_the_quick_start_works_as_typed(served: Process, tmp_path: Path) -> None:
    shell = Shell(await served.port("REST on"), tmp_path)
    file = await shell.read(UPLOAD)
    check_file(file)
    created = await shell.read(CREATE, file=file["id"])
    check_created(created, file["id"])

    async def retrieve() -> dict[str, Any]:
        return await shell.read(RETRIEVE, batch=created["id"])

    batch = await until(retrieve, lambda batch: batch["status"] in ENDED_WORDS)
    check_completed(batch, created)
    listed = {"object": "list", "data": [batch], "first_id": batch["id"], "last_id": batch["id"], "has_more": False}
    assert await shell.read(LIST) == await shell.read(LIST_TWO) == listed
    check_output(await shell.run(CONTENT, file=batch["output_file_id"]))
    assert await shell.run(CONTENT, file=file["id"]) == DATA.encode()
    log = served.log.read_text()
    assert "default: local" in log
    assert "nonsense" not in log


def check_file(file: dict[str, Any]) -> None:
    assert set(file) == FILE_KEYS
    assert file | {"id": "", "created_at": 0, "expires_at": 0} == {
        "object": "file", "id": "", "purpose": "batch", "filename": "mydata.jsonl", "bytes": len(DATA),
        "created_at": 0, "expires_at": 0, "status": "processed", "status_details": None,
    }  # fmt: skip
    assert re.fullmatch("file-[A-Za-z0-9]{22}", file["id"])
    assert file["expires_at"] == file["created_at"] + 2_592_000


def check_created(batch: dict[str, Any], file_id: str) -> None:
    usage = {
        "input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0,
    }  # fmt: skip
    assert set(batch) == BATCH_KEYS
    assert batch | {"id": "", "created_at": 0, "expires_at": 0} == dict.fromkeys(UNSET) | {
        "id": "", "object": "batch", "endpoint": "/v1/chat/completions", "model": None, "errors": None,
        "input_file_id": file_id, "completion_window": "24h", "status": "validating", "output_file_id": None,
        "error_file_id": None, "created_at": 0, "expires_at": 0,
        "request_counts": {"total": 0, "completed": 0, "failed": 0}, "usage": usage, "metadata": None,
    }  # fmt: skip
    assert re.fullmatch("batch_[0-9a-f]{32}", batch["id"])
    assert batch["expires_at"] == batch["created_at"] + 86_400


def check_completed(batch: dict[str, Any], created: dict[str, Any]) -> None:
    changed = {"status", "model", "output_file_id", "in_progress_at", "finalizing_at", "completed_at"}
    changed |= {"request_counts", "usage"}
    assert {name: batch[name] for name in BATCH_KEYS - changed} == {
        name: created[name] for name in BATCH_KEYS - changed
    }
    assert set(batch) == BATCH_KEYS
    assert (batch["status"], batch["model"]) == ("completed", "REPLACE-WITH-MODEL-DEPLOYMENT-NAME")
    assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    assert batch["usage"]["total_tokens"] == batch["usage"]["input_tokens"] + batch["usage"]["output_tokens"] > 0


def check_output(content: bytes) -> None:
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["custom_id"] for line in lines] == ["task-0", "task-1", "task-2"]
    for line in lines:
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert set(line["response"]) == {"status_code", "request_id", "body"}
        assert (line["error"], line["response"]["status_code"]) == (None, 200)
        assert line["response"]["body"]["object"] == "chat.completion"
