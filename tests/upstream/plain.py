"""Plain HTTP to a fake, for the tests of the fakes themselves."""

from collections.abc import Mapping
from typing import Any

import httpx
from tests.harness import chat_lines, jsonl, plain_client

LINES = jsonl(chat_lines(3))


def rest(base: str, **headers: str) -> httpx.AsyncClient:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return plain_client(base_url=base, headers=named, timeout=10)


async def upload(
    client: httpx.AsyncClient,
    data: bytes = LINES,
    *,
    path: str = "/files",
    filename: str = "in.jsonl",
    content_type: str = "application/octet-stream",
    fields: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Uploads a file, its fields first; its purpose is batch unless they say another."""
    form = {"purpose": "batch", **(fields or {})}
    return await client.post(path, data=form, files={"file": (filename, data, content_type)})


async def create(client: httpx.AsyncClient, file_id: str, *, path: str = "/batches", **more: Any) -> httpx.Response:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return await client.post(path, json=body)
