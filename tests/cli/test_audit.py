"""`batchyard serve` keeps an audit log that knows where REST clients are, without any secret in the configuration."""

import json
from pathlib import Path
from typing import Any

import httpx
from tests.harness import KEY, until
from tests.processes import batchyard, configure


async def test_serve_believes_its_own_shim_alone(tmp_path: Path) -> None:
    configure(tmp_path, echo=True)
    path = tmp_path / "audit.jsonl"
    with batchyard(tmp_path, "serve", environ={"BATCHYARD_AUDIT_LOG": str(path)}) as served:
        url = f"http://127.0.0.1:{await served.port('REST on')}/v1/batches"
        headers = {"authorization": f"Bearer {KEY}", "x-request-id": "mine", "batchyard-client": "203.0.113.9"}
        async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=60) as client:
            assert (await client.get(url)).status_code == 200

        async def look() -> list[dict[str, Any]]:
            return [json.loads(line) for line in path.read_text().splitlines()]

        (record,) = await until(look, bool)
    assert [record[name] for name in ("request_id", "key", "peer", "via")] == ["mine", "master", "127.0.0.1", "shim"]
