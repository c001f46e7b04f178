"""A transfer takes a few MiB of memory in each process, whatever the file's size."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from tests.harness import KEY, until
from tests.leaks import resident_bytes
from tests.processes import Process
from tests.uploads import MIB, Pair, at_once, pair, pair_at, upload, whole, whole_at

pytestmark = pytest.mark.once
MOST_GROWTH = 16 * MIB
MOST_GROWTH_OF_TEN = 80 * MIB
MOST_UNREAD = 100 * MIB
CONTENT = 50_000_000
OK = b"HTTP/1.1 200 OK"


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


@pytest.mark.parametrize(("provider", "unread"), [("local", 300), ("openai", 60), ("azure", 60)])
@pytest.mark.parametrize("way", ["serve", "apart"])
async def test_downloads_that_nobody_reads_hold_at_most_100_mib_in_any_process(
    tmp_path: Path, way: str, provider: str, unread: int
) -> None:
    async with AsyncExitStack() as stack:
        rest, processes = await stack.enter_async_context(running_as(tmp_path, way, provider))
        path = f"/v1/files/{(await upload(rest, 10_000))['id']}/content"
        async with rest.stream("GET", path) as first:  # loads what every download needs
            await anext(first.aiter_raw())
        before = {one: resident_bytes(one.pid) for one in processes}
        await asyncio.gather(*(begun(stack, rest, path) for _ in range(unread)))
        await until(partial(held_by, before), lambda looks: len(set(looks)) == 1, every=0)
        growth = {one.log.stem: (resident_bytes(one.pid) - was) / MIB for one, was in before.items()}
        assert max(growth.values()) <= MOST_UNREAD / MIB, growth


@asynccontextmanager
async def running_as(
    folder: Path, way: str, provider: str
) -> AsyncIterator[tuple[httpx.AsyncClient, tuple[Process, ...]]]:
    """A client and the processes, with the embedded provider or one whose files all have CONTENT bytes."""
    if way == "serve":
        async with whole(folder) if provider == "local" else whole_at(folder, provider, CONTENT) as (rest, process):
            yield rest, (process,)
    else:
        async with pair(folder) if provider == "local" else pair_at(folder, provider, CONTENT) as running:
            yield running.rest, (running.shim, running.service)


async def begun(stack: AsyncExitStack, rest: httpx.AsyncClient, path: str) -> None:
    """A download of which nothing is read but the status, till `stack` ends."""
    reader, writer = await asyncio.open_connection(rest.base_url.host, rest.base_url.port, limit=1)
    stack.callback(writer.close)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
    assert await reader.readexactly(len(OK)) == OK


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
