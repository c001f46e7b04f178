"""Limits of tenants whose batches are at a deployment: what is on its way there counts, what was refused does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.deployments import at_deployment
from tests.harness import until
from tests.rest.conftest import opened, refusal
from tests.upstream.faults import Answer, Held, Reset
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks

from batchyard.service.config.settings import Quotas

from .scene import CREATE, INPUT, LIST, UPLOAD, Scene

STUCK = Quirks(auto=False)
LINES = 3
TOKENS = len(INPUT) // 4
MANY = 10**6
NO_LIST = Answer(429, headers={"retry-after": "20"})  # nobody tries it again, and no breaker counts it


@asynccontextmanager
async def bounded(folder: Path, quirks: Quirks = Quirks(), **limits: Any) -> AsyncIterator[Scene]:  # noqa: B008
    """A front door before a deployment, for tenants with limits."""
    async with (
        fake_openai(quirks) as fake,
        opened(folder, **at_deployment("openai", fake, tenant_limits=Quotas(**limits))) as door,
    ):
        yield Scene(fake, door, folder)


async def told(found: Scene, file_id: str) -> str:
    """What a refusal says: `Limit ..., Used ..., Requested ...`."""
    message = refusal(await found.post(file_id), 429)["message"]
    return str(message).partition(": ")[2].partition(".")[0]


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_lines_and_tokens_are_counted_while_a_file_goes_through(tmp_path: Path, end: bytes) -> None:
    data = INPUT.rstrip() + end
    for limit, amount in (("lines_per_day", LINES), ("tokens_per_day", len(data) // 4)):
        limits: dict[str, Any] = {limit: 1}
        async with bounded(tmp_path / limit, **limits) as found:
            file_id = (await found.door.upload(data))["id"]
            assert await told(found, file_id) == f"Limit 1, Used 0, Requested {amount}"
            assert not found.calls(CREATE)


async def test_creations_that_are_under_way_count(tmp_path: Path) -> None:
    async with bounded(tmp_path, batches_in_flight=2) as found:
        file_id, gate = await found.input(), asyncio.Event()
        found.fake.fault(Held(gate), times=2, where=CREATE)
        asked = [asyncio.create_task(found.post(file_id)) for _ in range(6)]
        for answered in asyncio.as_completed(asked):
            await answered
            if sum(one.done() for one in asked) == 4:
                gate.set()  # the others are refused while nothing has been answered
        assert sorted([(await one).status_code for one in asked]) == [200, 200, *[429] * 4]
        assert found.calls(CREATE) == 2


async def test_a_creation_in_doubt_counts_until_it_is_settled(tmp_path: Path) -> None:
    async with bounded(tmp_path, STUCK, enqueued_tokens=TOKENS) as found:
        file_id = await found.input()
        found.fake.fault(NO_LIST, times=1000, where=LIST)
        found.fake.fault(Reset(acts=True), where=CREATE)
        assert (await found.post(file_id)).status_code == 503
        assert await told(found, file_id) == f"Limit {TOKENS}, Used {TOKENS}, Requested {TOKENS}"
        found.fake.faults.clear()
        (batch,) = await until(found.listed, bool)
        assert await told(found, file_id) == f"Limit {TOKENS}, Used {TOKENS}, Requested {TOKENS}"
        found.fake.run(batch["id"])
        await found.door.ended(batch["id"])
        assert (await found.post(file_id)).status_code == 200


async def test_what_the_deployment_refuses_counts_for_nothing(tmp_path: Path) -> None:
    async with bounded(tmp_path, STUCK, batches_in_flight=1, lines_per_day=LINES, tokens_per_day=TOKENS) as found:
        file_id = await found.input()
        for _ in range(3):
            found.fake.fault(Answer(400), where=CREATE)
            assert (await found.post(file_id)).status_code == 400
        batch = (await found.post(file_id)).json()
        assert (await found.post(file_id)).status_code == 429
        found.fake.fail(batch["id"], [{"code": "x", "message": "y", "param": None, "line": None}])
        await found.door.ended(batch["id"])
        assert (await found.post(file_id)).status_code == 200


async def test_an_ended_batch_counts_what_its_deployment_says(tmp_path: Path) -> None:
    async with bounded(tmp_path, tokens_per_day=MANY) as found:
        file_id = await found.input()
        batch = await found.door.ended((await found.post(file_id)).json()["id"])
        used = batch["usage"]["total_tokens"]
        assert 0 < used != TOKENS
    async with bounded(tmp_path, tokens_per_day=used) as found:
        assert await told(found, file_id) == f"Limit {used}, Used {used}, Requested {TOKENS}"


async def test_one_whose_deployment_tells_no_usage_counts_what_was_reckoned(tmp_path: Path) -> None:
    async with bounded(tmp_path, Quirks(no_usage=True), tokens_per_day=2 * TOKENS - 1) as found:
        file_id = await found.input()
        await found.door.ended((await found.post(file_id)).json()["id"])
        assert await told(found, file_id) == f"Limit {2 * TOKENS - 1}, Used {TOKENS}, Requested {TOKENS}"


async def test_bytes_at_a_deployment_count_and_none_too_many_get_there(tmp_path: Path) -> None:
    async with bounded(tmp_path, stored_bytes=len(INPUT) * 2 - 1) as found:
        await found.input()
        data, files = {"purpose": "batch"}, {"file": ("a.jsonl", INPUT)}
        refusal(await found.door.rest.post("/v1/files", data=data, files=files), 429)
        await until(lambda: _kept(found), lambda kept: kept == 1)
        assert found.calls(UPLOAD) >= 1


async def _kept(found: Scene) -> int:
    return len(found.fake.files)
