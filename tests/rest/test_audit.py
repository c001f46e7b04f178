"""Where a REST client is, in the audit log."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.harness import until
from tests.rest.conftest import opened, refusal


@pytest.mark.parametrize("secret", ["s-hared", None])
async def test_a_shim_that_is_known_says_where_its_client_is(tmp_path: Path, shim_is: str, secret: str | None) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(tmp_path, audit_log=path, shim_secret=secret) as door:
        forged = {"batchyard-client": "203.0.113.9", "x-forwarded-for": "203.0.113.9", "x-request-id": "mine"}
        refusal(await door.rest.delete("/v1/files/file-1", headers=forged), 404)

        async def look() -> list[Any]:
            return [json.loads(line) for line in path.read_text().splitlines()]

        (record,) = await until(look, bool)
    assert (record["request_id"], record["files"], record["code"]) == ("mine", ["file-1"], "NOT_FOUND")
    if secret:
        assert (record["peer"], record["via"]) == ("127.0.0.1", "shim")
    else:
        assert record["peer"].startswith("ipv4:127.0.0.1:" if shim_is == "alone" else "in-process")
