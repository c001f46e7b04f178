"""Plain HTTP to a fake, for the tests of the fakes themselves."""

import ssl
from collections.abc import Mapping
from typing import Any

import httpx
from tests.harness import chat_lines, jsonl

LINES = jsonl(chat_lines(3))
_PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # to load certificates takes longer than a test


def rest(base: str, **headers: str) -> httpx.AsyncClient:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.AsyncClient(base_url=base, headers=named, trust_env=False, timeout=10, verify=_PLAIN)


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
