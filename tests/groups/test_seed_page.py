"""The page that users come from, typed as printed: its section on load balancing over Azure deployments.

The page has lost its file's indentation and a quote in one command; both are restored here, and the broken originals
are told apart by what they are answered.
"""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.harness import until
from tests.processes import process
from tests.providers.test_seed_page import PATIENCE, served
from tests.rest.test_quick_start import CONTENT, DATA, UPLOAD, Shell
from tests.upstream.azure import FakeAzure, fake_azure

PAGE = """\
model_list:
- model_name: "batch-gpt-4o-mini"
  litellm_params:
    model: "azure/gpt-4o-mini"
    api_key: os.environ/AZURE_API_KEY
    api_base: os.environ/AZURE_API_BASE
  model_info:
    mode: batch

litellm_settings:
  enable_loadbalancing_on_batch_endpoints: true # 👈 KEY CHANGE
"""
FILE_ID, BATCH_ID = "file-f0be81f654454113a922da60acb0eea6", "batch_94e43f0a-d805-477d-adf9-bbb9c50910ed"
CREATE = """\
curl http://0.0.0.0:4000/v1/batches \\
-H "Authorization: Bearer $LITELLM_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{
"input_file_id": "file-f0be81f654454113a922da60acb0eea6",
"endpoint": "/v1/chat/completions",
"completion_window": "24h",
"model": "batch-gpt-4o-mini"
}'
"""
AS_PRINTED = CREATE.replace('"model":', '"model:')
RETRIEVE = """\
curl http://0.0.0.0:4000/v1/batches/batch_94e43f0a-d805-477d-adf9-bbb9c50910ed \\
-H "Authorization: Bearer $LITELLM_API_KEY" \\
-H "Content-Type: application/json" \\

"""
LIST = """\
curl http://0.0.0.0:4000/v1/batches?limit=2 \\
-H "Authorization: Bearer $LITELLM_API_KEY" \\
-H "Content-Type: application/json"
"""
LINES = DATA.replace("REPLACE-WITH-MODEL-DEPLOYMENT-NAME", "batch-gpt-4o-mini")
QUICK = {"BATCHYARD_UPSTREAM__AZURE_POLL_SECONDS": "0.1"}


class Reader(Shell):
    """Somebody who works through the page, with the ids that they were given."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        (folder / "mydata.jsonl").write_text(LINES)

    async def asked(self, command: str, file_id: str = FILE_ID, batch_id: str = BATCH_ID) -> dict[str, Any]:
        return await self.read(command.replace(FILE_ID, file_id).replace(BATCH_ID, batch_id))

    async def through(self) -> tuple[dict[str, Any], bytes]:
        """Uploads, creates, retrieves until the batch has ended, and reads what came of it."""
        file = await self.read(UPLOAD)
        created = await self.asked(CREATE, file["id"])
        assert (created["status"], created["input_file_id"]) == ("validating", file["id"])
        batch = await until(
            lambda: self.asked(RETRIEVE, batch_id=created["id"]),
            lambda batch: batch["status"] == "completed",
            PATIENCE,
            every=0.2,
        )
        return batch, await self.run(CONTENT, file=batch["output_file_id"])


def page(folder: Path, deployments: int) -> tuple[str, str]:
    """Options that name the page's file, with its entry once for each deployment."""
    head, entry, rest = PAGE[: PAGE.index("- ")], PAGE[PAGE.index("- ") : PAGE.index("\n\n") + 1], "\n"
    rest += PAGE[PAGE.index("litellm_settings") :]
    numbered = [entry, *(entry.replace("AZURE_API", f"AZURE_{n}_API") for n in range(1, deployments))]
    path = folder / "config.yaml"
    path.write_text(head + "".join(numbered) + rest)
    return "--config", str(path)


def variables(fakes: list[FakeAzure]) -> dict[str, str]:
    """The variables that the file refers to."""
    found = dict(QUICK)
    for number, fake in enumerate(fakes):
        name = f"AZURE_{number}_API" if number else "AZURE_API"
        found |= {f"{name}_KEY": fake.key, f"{name}_BASE": fake.api_base}
    return found


@pytest.mark.parametrize("deployments", [1, 3])
async def test_it_works_as_printed(tmp_path: Path, deployments: int) -> None:
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(fake_azure(key=f"secret-{n}")) for n in range(deployments)]
        with served(tmp_path, *page(tmp_path, deployments), **variables(fakes)) as server:
            reader = Reader(await server.port("REST on"), tmp_path)
            for _ in range(deployments):
                batch, content = await reader.through()
                assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
                results = [json.loads(line) for line in content.splitlines()]
                assert [line["custom_id"] for line in results] == ["task-0", "task-1", "task-2"]
                assert {line["response"]["body"]["model"] for line in results} == {"batch-gpt-4o-mini"}
                assert (await reader.read(LIST))["data"][0] == batch
            assert [len(fake.batches) for fake in fakes] == [1] * deployments
            log = server.log.read_text()
            assert all(fake.key not in log for fake in fakes)
            assert "not used" not in log


async def test_its_command_without_a_quote_is_refused_with_the_position(tmp_path: Path) -> None:
    async with fake_azure() as fake:
        with served(tmp_path, *page(tmp_path, 1), **variables([fake])) as server:
            reader = Reader(await server.port("REST on"), tmp_path)
            file = await reader.read(UPLOAD)
            error = (await reader.asked(AS_PRINTED, file["id"]))["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", None)
            assert "line 5, column" in error["message"]
            status = AS_PRINTED.rstrip("\n") + ' -s -o status.json -w "%{http_code}"'
            assert await reader.run(status) == b"400"
            assert (await reader.read(LIST))["data"] == []


async def test_its_file_without_indentation_is_refused_with_the_position(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("\n".join(line.strip() for line in PAGE.splitlines()))
    given = ("serve", "--config", str(tmp_path / "config.yaml"))
    with process(tmp_path / "log", "batchyard.cli.main", *given) as started:
        assert await started.ended() != 0
        said = started.log.read_text()
    assert "config.yaml" in said
    assert "line 3" in said
