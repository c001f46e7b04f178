"""A provider that answers while an upload is still being sent to it: what it says reaches the caller at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from grpc import StatusCode
from tests.deployments import QUICK
from tests.harness import refused, until
from tests.rest.conftest import Door, opened, refusal
from tests.statuses import told
from tests.upstream.early import (
    ERROR,
    After,
    Early,
    answer_of,
    closes,
    early_provider,
    half_closes,
    keeps_open,
    reads_on,
    resets,
)

SIZE = 12 << 20  # more than any buffer between takes, and less than the front door reads before it answers
DATA = b'{"custom_id": "x"}\n' * (SIZE // 19)
PATIENCE = 30.0
LONG = 3600.0  # nothing here may wait for so long


def chunked(answer: bytes) -> bytes:
    """With its body as a chunk after which another may come."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return b"%b\r\n\r\n%x\r\n%b\r\n" % (head, len(body), body)


TOO_LARGE = answer_of("413 Content Too Large")
BUSY = answer_of("429 Too Many Requests", None, "retry-after: 17")
ENDLESS = {
    "until the end": answer_of("429 Too Many Requests", None, "retry-after: 17", "connection: close", length=False),
    "chunked": chunked(answer_of("429 Too Many", None, "retry-after: 17", "transfer-encoding: chunked", length=False)),
    "short": answer_of("429 Too Many Requests", None, "retry-after: 17").replace(
        b"content-length: 1", b"content-length: 9"
    ),
}
AFTER = [keeps_open, reads_on, closes, half_closes, resets]


@asynccontextmanager
async def before(folder: Path, answer: bytes, after: After, **upstream: Any) -> AsyncIterator[tuple[Door, Early]]:
    """A front door before such a provider."""
    async with early_provider(answer, after) as (early, deployment):
        settings: dict[str, Any] = {"local": None, "deployments": (deployment,), "default_provider": "openai"}
        slow = replace(QUICK, **{"idle_seconds": LONG, **upstream})
        async with opened(folder, **settings, upstream=slow) as door:
            yield door, early


async def posted(door: Door) -> httpx.Response:
    async with asyncio.timeout(PATIENCE):
        return await door.rest.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", DATA)})


@pytest.mark.parametrize("after", AFTER, ids=lambda one: one.__name__)
@pytest.mark.parametrize(("answer", "status"), [(TOO_LARGE, 413), (BUSY, 429)], ids=["413", "429"])
async def test_an_early_refusal_reaches_the_caller(tmp_path: Path, answer: bytes, status: int, after: After) -> None:
    async with before(tmp_path, answer, after) as (door, early):
        found = await posted(door)
        assert refusal(found, status) == ERROR
        assert found.headers.get("retry-after") == ("17" if status == 429 else None)
        assert early.calls == 1


@pytest.mark.parametrize("after", AFTER, ids=lambda one: one.__name__)
@pytest.mark.parametrize("way", ENDLESS)
async def test_an_early_refusal_without_an_end_reaches_the_caller(tmp_path: Path, way: str, after: After) -> None:
    async with before(tmp_path, ENDLESS[way], after) as (door, early):
        found = await posted(door)
        assert refusal(found, 429) == ERROR
        assert found.headers["retry-after"] == "17"
        assert early.calls == 1


async def test_nothing_more_is_sent_once_a_refusal_has_come(tmp_path: Path) -> None:
    """Its body never comes, which is waited for for a moment, while the provider reads all that it gets."""
    head = answer_of("429 Too Many Requests", None, "retry-after: 17").partition(b"{")[0]
    async with before(tmp_path, head, reads_on) as (door, early):
        async with refused(StatusCode.RESOURCE_EXHAUSTED) as errors:
            await door.grpc.upload(DATA * 4)
        assert told(errors[0]).message == "The provider answered with HTTP status 429."
        await until(early.ended, bool)
        assert early.read < 2 * SIZE


async def test_an_early_refusal_reaches_a_grpc_caller(tmp_path: Path) -> None:
    async with before(tmp_path, ENDLESS["until the end"], keeps_open) as (door, _):
        async with refused(StatusCode.RESOURCE_EXHAUSTED) as errors:
            await door.grpc.upload(DATA)
        assert told(errors[0]).message == ERROR["message"]


async def test_the_connection_of_an_early_refusal_is_used_no_more(tmp_path: Path) -> None:
    async with before(tmp_path, BUSY, reads_on) as (door, early):
        for count in (1, 2, 3):
            assert refusal(await posted(door), 429) == ERROR
            assert (early.calls, early.connections) == (count, count)


async def test_an_early_success_is_no_file(tmp_path: Path) -> None:
    async with before(tmp_path, answer_of("200 OK", {"id": "file-1", "object": "file"}), keeps_open) as (door, _):
        error = refusal(await posted(door), 400)
        assert "before the file had ended" in error["message"]
        assert (await door.rest.get("/v1/files")).json()["data"] == []
