"""Nothing that was acknowledged is lost in a power cut, and each single sync is needed for that.

`PowerCut` takes the place of the disk: files are cut back to their last sync, names that were never synced are gone.
SQLite syncs its own file, so that the registry survives as it is; that it does so is `PRAGMA synchronous=FULL`.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from starlette.responses import Response
from tests.fakes import FakeEndpoint, Gate, completion, fake_endpoint
from tests.faults import PowerCut
from tests.harness import Client, chat_lines, jsonl, service, settings_for, until

from batchyard.service.config.settings import LocalSettings
from batchyard.v1 import BatchStatus

LINES = 60
SITES = [
    "data.dir",
    "store.root",
    "files.folder",
    "files.object",
    "files.entry",
    "segments.folder",
    "segments.object",
    "segments.entry",
    "journal.data",
    "journal.dir",
    "journal.adopted",
]


class LostError(AssertionError):
    """Something that had been acknowledged is gone, or differs."""


@pytest.mark.parametrize("removed", [False, True], ids=["removals undone", "removals done"])
async def test_nothing_acknowledged_is_lost(tmp_path: Path, removed: bool) -> None:
    assert await tell(tmp_path, removed=removed, without=()) == set(SITES)


@pytest.mark.parametrize("site", SITES)
async def test_every_sync_is_needed(tmp_path: Path, site: str) -> None:
    lost = 0
    for removed in (False, True):
        try:
            await tell(tmp_path / str(removed), removed=removed, without={site})
        except LostError:
            lost += 1
    assert lost, f"nobody notices that {site} is not synced"


async def tell(folder: Path, *, removed: bool, without: Collection[str]) -> set[str]:
    """Goes through a story whose power is cut after each chapter. Returns the sites that synced."""
    gate = Gate()

    async def first_half(body: dict[str, Any], before: int) -> Response:
        if int(body["messages"][-1]["content"].split()[1]) >= LINES // 2:
            await gate.passed()
        return completion(body)

    sites: set[str] = set()
    disk = folder / "disk"
    disk.mkdir(parents=True)
    async with fake_endpoint(first_half) as fake:
        story = _Story(fake, gate)
        local = LocalSettings(api_base=fake.api_base, chunk_lines=LINES // 3)
        for number, chapter in enumerate(story.chapters()):
            power = PowerCut(disk, without=without)
            settings = settings_for(disk, local=local)
            after = folder / f"disk after {number}"
            async with service(settings, disk=power) as (_, client):
                await _told(chapter, client)
                await asyncio.to_thread(power.survivors, after, removed=removed)
                _copy_registry(settings.data_dir, after / "data")
            sites |= set(power.sites)
            disk = after
    return sites


@pytest.mark.parametrize("without", ["", "aside.folder", "aside.entry"])
@pytest.mark.parametrize("removed", [False, True], ids=["removals undone", "removals done"])
async def test_what_was_moved_aside_is_somewhere(tmp_path: Path, without: str, removed: bool) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    settings = settings_for(disk)
    async with service(settings):
        pass
    (settings.data_dir / "store/files").mkdir()
    (settings.data_dir / "store/files/file-unknown").write_bytes(b"x")
    power = PowerCut(disk, without={without})
    async with service(settings, disk=power):
        await asyncio.to_thread(power.survivors, tmp_path / "after", removed=removed)
    found = list((tmp_path / "after").rglob("file-unknown"))
    if without:
        assert (tmp_path / "after/data/aside") not in [path.parents[2] for path in found]
    else:
        assert [path.read_bytes() for path in found if "aside" in path.parts] == [b"x"]


class _Story:
    """What a client is told, and holds the service to after each cut.

    Of three chunks the first one is sealed, the second half done and the third not begun, until the gate opens.
    """

    def __init__(self, fake: FakeEndpoint, gate: Gate) -> None:
        self._fake = fake
        self._gate = gate
        self._file_id = self._batch_id = ""

    def chapters(self) -> list[Callable[[Client], Awaitable[None]]]:
        return [self._upload, self._run_half, self._run_half_again, self._run_rest, self._read]

    async def _upload(self, client: Client) -> None:
        self._file_id = (await client.upload(jsonl(chat_lines(LINES)))).id

    async def _run_half(self, client: Client) -> None:
        _check(await client.read(self._file_id) == jsonl(chat_lines(LINES)), "the upload")
        self._batch_id = (await client.create(self._file_id)).id
        await self._half_seen(client, calls=1)

    async def _run_half_again(self, client: Client) -> None:
        _check((await client.get(self._batch_id)).request_counts.completed == LINES // 2, "progress")
        await self._half_seen(client, calls=2)

    async def _half_seen(self, client: Client, calls: int) -> None:
        """Waits until half has run, and the rest was asked for as often as there were starts."""

        async def asked() -> bool:
            waiting = [self._fake.calls[f"question {number}"] for number in range(LINES // 2, LINES)]
            return all(count == calls for count in waiting)

        await until(lambda: client.get(self._batch_id), lambda batch: batch.request_counts.completed == LINES // 2)
        await until(asked, bool)

    async def _run_rest(self, client: Client) -> None:
        self._gate.open()
        batch = await client.ended(self._batch_id)
        _check(batch.status == BatchStatus.BATCH_STATUS_COMPLETED, "the batch")
        done = [self._fake.calls[f"question {number}"] for number in range(LINES // 2)]
        _check(done == [1] * (LINES // 2), "lines that were counted")

    async def _read(self, client: Client) -> None:
        batch = await client.get(self._batch_id)
        results = await client.results(batch.output_file_id)
        _check([line["custom_id"] for line in results] == [f"request-{n}" for n in range(LINES)], "results")


async def _told(chapter: Callable[[Client], Awaitable[None]], client: Client) -> None:
    try:
        await chapter(client)
    except grpc.aio.AioRpcError as error:
        raise LostError(error.details()) from error


def _check(kept: bool, what: str) -> None:
    if not kept:
        raise LostError(what)


def _copy_registry(data: Path, survivors: Path) -> None:
    """The registry as its own syncs keep it; a folder that was lost takes it along."""
    _check(survivors.is_dir(), "the data directory")
    paths = data / "registry.sqlite3", survivors / "registry.sqlite3"
    with closing(sqlite3.connect(paths[0])) as live, closing(sqlite3.connect(paths[1])) as copy:
        live.backup(copy)
