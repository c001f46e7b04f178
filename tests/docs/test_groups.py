"""What the README and the page on model groups show works as pasted, over a fake Azure."""

import json
from pathlib import Path
from typing import Any

from tests.harness import until
from tests.processes import process
from tests.upstream.azure import fake_azure

from .blocks import block
from .test_commands import pasted

GROUP = "batch-gpt-4o-mini"
LINE = {"custom_id": "task-0", "method": "POST", "url": "/chat/completions", "body": {"model": GROUP, "messages": []}}


async def test_the_groups_commands_take_a_batch_through(tmp_path: Path) -> None:
    (tmp_path / "groups.yaml").write_text(block("README.md", "# groups.yaml"))
    (tmp_path / "mydata.jsonl").write_text(json.dumps(LINE) + "\n")
    assert block("README.md", ".venv/bin/batchyard serve --config groups.yaml")
    options = ["--config", str(tmp_path / "groups.yaml"), "--data-dir", str(tmp_path / "data")]
    async with fake_azure() as azure:
        environ = {"AZURE_API_KEY": azure.key, "AZURE_API_BASE": azure.api_base}
        environ |= {"BATCHYARD_UPSTREAM__AZURE_POLL_SECONDS": "0.2"}
        command = ("batchyard.cli.main", "serve", *options, "--port", "0", "--grpc-port", "0")
        with process(tmp_path / "log", *command, environ=environ) as running:
            ports = await running.port("REST on"), await running.port("gRPC on")
            upload, create = block("docs/groups.md", "curl ").split("\n", 1)
            file = json.loads(await pasted(upload, ports, tmp_path))
            made = json.loads(await pasted(create.replace("file-abc123", file["id"]), ports, tmp_path))

            async def look() -> dict[str, Any]:
                return dict(json.loads(await pasted(f"{GET}/batches/{made['id']}", ports, tmp_path)))

            batch = await until(look, lambda batch: batch["status"] == "completed", every=0.2)
            content = await pasted(f"{GET}/files/{batch['output_file_id']}/content", ports, tmp_path)
    result = json.loads(content)
    assert (result["custom_id"], result["response"]["body"]["model"]) == ("task-0", GROUP)
    (sent,) = (file.data for file in azure.files.values() if file.description["purpose"] == "batch")
    assert json.loads(sent)["body"]["model"] == "gpt-4o-mini"


GET = 'curl -s -H "Authorization: Bearer sk-1234" http://localhost:4000/v1'
