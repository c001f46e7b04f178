"""A transfer takes a few MiB of memory in each process, whatever the file's size."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from tests.harness import until
from tests.leaks import resident_bytes
from tests.processes import Process
from tests.uploads import MIB, Pair, at_once, pair, pair_at, upload

pytestmark = pytest.mark.once
MOST_GROWTH = 16 * MIB
MOST_GROWTH_OF_TEN = 80 * MIB
UNREAD, MOST_UNREAD = 16, 3 * MIB


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Pair]:
    """The processes, after a first small transfer has loaded what every transfer needs."""
    async with pair(tmp_path) as running:
        await transfer(running, 1000)
        yield running


async def transfer(running: Pair, count: int) -> int:
    """Uploads and downloads a file of `count` lines; its size in bytes."""
    file = await upload(running.rest, count)
    came = await downloaded(running, file["id"])
    assert came == file["bytes"]
    return came


async def downloaded(running: Pair, file_id: str) -> int:
    """How many bytes a file's content has."""
    came = 0
    async with running.rest.stream("GET", f"/v1/files/{file_id}/content") as download:
        async for piece in download.aiter_raw():
            came += len(piece)
    return came


async def test_a_transfer_of_200_mb_takes_at_most_16_mib_in_each_process(running: Pair) -> None:
    before = {one: one.peak_bytes() for one in (running.shim, running.service)}
    assert await transfer(running, 41_000) > 200_000_000
    growth = {one.log.stem: (one.peak_bytes() - peak) / MIB for one, peak in before.items()}
    assert max(growth.values()) <= MOST_GROWTH / MIB, growth


@pytest.mark.parametrize("kind", ["openai", "azure"])
async def test_a_transfer_through_a_provider_takes_no_more(tmp_path: Path, kind: str) -> None:
    async with pair_at(tmp_path, kind, 200_000_000) as running:
        file = await upload(running.rest, 1000)
        before = {one: one.peak_bytes() for one in (running.shim, running.service)}
        assert (await upload(running.rest, 41_000))["bytes"] > 200_000_000
        assert await downloaded(running, file["id"]) == 200_000_000
        growth = {one.log.stem: (one.peak_bytes() - peak) / MIB for one, peak in before.items()}
        assert max(growth.values()) <= MOST_GROWTH / MIB, growth


@pytest.mark.parametrize("slow", ["shim", "service"])
@pytest.mark.parametrize("kind", ["openai", "azure"])
async def test_a_process_that_gets_little_time_holds_no_more(tmp_path: Path, kind: str, slow: str) -> None:
    """Where one of the two stands still for moments, as on a busy machine, the other doesn't fill what lies between."""
    async with pair_at(tmp_path, kind, 200_000_000) as running:
        file = await upload(running.rest, 1000)
        before = {one: one.peak_bytes() for one in (running.shim, running.service)}
        async with (running.shim if slow == "shim" else running.service).halting():
            await upload(running.rest, 10_000)
            assert await downloaded(running, file["id"]) == 200_000_000
        growth = {one.log.stem: (one.peak_bytes() - peak) / MIB for one, peak in before.items()}
        assert max(growth.values()) <= MOST_GROWTH / MIB, growth


async def test_a_download_that_nobody_reads_holds_at_most_3_mib_in_each_process(running: Pair) -> None:
    file = await upload(running.rest, 10_000)
    before = {one: resident_bytes(one.pid) for one in (running.shim, running.service)}
    async with AsyncExitStack() as stack:
        for _ in range(UNREAD):
            answer = await stack.enter_async_context(running.rest.stream("GET", f"/v1/files/{file['id']}/content"))
            assert answer.status_code == 200
        await until(partial(held_by, before), lambda looks: len(set(looks)) == 1, every=0)
        growth = {one.log.stem: (resident_bytes(one.pid) - was) / MIB / UNREAD for one, was in before.items()}
        assert max(growth.values()) <= MOST_UNREAD / MIB, growth


async def held_by(processes: Iterable[Process]) -> list[int]:
    """What the processes hold together in three looks, a fifth of a second apart."""
    looks = []
    for _ in range(3):
        await asyncio.sleep(0.2)
        looks.append(sum(resident_bytes(one.pid) for one in processes))
    return looks


async def test_ten_uploads_of_24_mb_at_once_take_at_most_80_mib_in_each_process(running: Pair) -> None:
    growth = await at_once(running, 10, 5000)
    assert min(growth.sizes) > 24_000_000
    assert max(growth.peaks.values()) <= MOST_GROWTH_OF_TEN, str(growth)
