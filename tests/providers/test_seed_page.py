"""The page that users come from, typed as printed: its Quick Start at OpenAI, and its section on Azure.

Nothing is configured but the variables that it names, and OPENAI_BASE_URL, which leads to a fake.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness import until
from tests.processes import Process, process
from tests.rest.test_quick_start import CONTENT, CREATE, DATA, LIST, RETRIEVE, UPLOAD, Shell
from tests.upstream.azure import fake_azure
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks

AZURE_UPLOAD = """\
curl http://localhost:4000/azure/v1/files \\
-H "Authorization: Bearer sk-1234" \\
-F purpose="batch" \\
-F file="@mydata.jsonl"
"""
AZURE_CREATE = """\
curl http://0.0.0.0:4000/azure/v1/batches \\
-H "Authorization: Bearer $LITELLM_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{
"input_file_id": "file-abc123",
"endpoint": "/v1/chat/completions",
"completion_window": "24h"
}'
"""
AZURE_RETRIEVE = """\
curl http://0.0.0.0:4000/azure/v1/batches/batch_abc123 \\
-H "Authorization: Bearer $LITELLM_API_KEY" \\
-H "Content-Type: application/json" \\

"""
AZURE_CANCEL = """\
curl http://0.0.0.0:4000/azure/v1/batches/batch_abc123/cancel \\
-H "Authorization: Bearer $LITELLM_API_KEY" \\
-H "Content-Type: application/json" \\
-X POST
"""
AZURE_LIST = """\
curl http://0.0.0.0:4000/v1/batches?limit=2 \\
-H "Authorization: Bearer $LITELLM_API_KEY" \\
-H "Content-Type: application/json"
"""
PATIENCE = 30.0


@contextmanager
def served(folder: Path, *options: str, **environ: str) -> Iterator[Process]:
    """`batchyard serve` with nothing but these options and variables."""
    given = (*options, "--port", "0", "--grpc-port", "0", "--data-dir", str(folder / "data"))
    with process(folder / "log", "batchyard.cli.main", "serve", *given, environ=environ) as started:
        yield started


async def test_its_quick_start_works_at_openai(tmp_path: Path) -> None:
    async with fake_openai() as fake:
        with served(tmp_path, OPENAI_API_KEY=fake.key, OPENAI_BASE_URL=fake.api_base) as process:
            shell = Shell(await process.port("REST on"), tmp_path)
            file = await shell.read(UPLOAD)
            assert fake.files[file["id"]].data == DATA.encode()
            # The page's lines are for /chat/completions, which only Azure takes for a batch of /v1/chat/completions.
            (tmp_path / "mydata.jsonl").write_text(DATA.replace('"url": "/chat', '"url": "/v1/chat'))
            file = await shell.read(UPLOAD)
            batch = await shell.read(CREATE, file=file["id"])
            assert (batch["status"], batch["input_file_id"]) == ("validating", file["id"])
            fake.run(batch["id"])

            async def retrieve() -> dict[str, Any]:
                return await shell.read(RETRIEVE, batch=batch["id"])

            batch = await until(retrieve, lambda batch: batch["status"] == "completed", PATIENCE, every=0.2)
            assert batch == fake.batches[batch["id"]] | {"metadata": None}
            assert (await shell.read(LIST))["data"] == [batch]
            content = await shell.run(CONTENT, file=batch["output_file_id"])
            assert content == fake.files[batch["output_file_id"]].data
            assert len(content.splitlines()) == 3
            assert fake.key not in process.log.read_text()


async def test_its_azure_section_works_with_two_variables(tmp_path: Path) -> None:
    async with fake_azure(Quirks(auto=False)) as fake:
        with served(tmp_path, AZURE_API_KEY=fake.key, AZURE_API_BASE=fake.api_base) as process:
            shell = Shell(await process.port("REST on"), tmp_path)
            file = await shell.read(AZURE_UPLOAD)
            assert fake.files[file["id"]].data == DATA.encode()
            batch = await shell.read(AZURE_CREATE, file=file["id"])
            assert (batch["status"], batch["endpoint"]) == ("validating", "/v1/chat/completions")
            assert (await shell.read(AZURE_RETRIEVE, batch=batch["id"]))["id"] == batch["id"]
            cancelled = await shell.read(AZURE_CANCEL, batch=batch["id"])
            assert (cancelled["status"], fake.batches[batch["id"]]["status"]) == ("cancelling", "cancelling")
            listed = await shell.read(AZURE_LIST)
            assert [one["id"] for one in listed["data"]] == [batch["id"]]
            assert fake.key not in process.log.read_text()


async def test_both_of_its_sections_work_at_once(tmp_path: Path) -> None:
    async with fake_openai() as openai, fake_azure() as azure:
        variables = {"OPENAI_API_KEY": openai.key, "OPENAI_BASE_URL": openai.api_base}
        variables |= {"AZURE_API_KEY": azure.key, "AZURE_API_BASE": azure.api_base}
        with served(tmp_path, **variables) as process:
            shell = Shell(await process.port("REST on"), tmp_path)
            assert (await shell.read(UPLOAD))["id"] in openai.files
            assert (await shell.read(AZURE_UPLOAD))["id"] in azure.files
