"""What the service does when the ground moves: a full disk, a registry that is another's, a port that is taken."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from tests.harness import chat_lines, jsonl, service, settings_for, until

from batchyard.service.config.settings import LocalSettings
from batchyard.service.datadir.disk import Disk, HasFileno
from batchyard.service.server import StartupError, serving
from batchyard.v1 import BatchStatus


class FullDisk(Disk):
    """Takes no results while it is full."""

    def __init__(self) -> None:
        self.full = True
        self.refusals = 0

    def sync_data(self, file: HasFileno, *, site: str) -> None:
        if self.full and site == "journal.data":
            self.refusals += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        super().sync_data(file, site=site)


async def test_batches_go_on_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    disk = FullDisk()

    async def refusals() -> int:
        return disk.refusals

    settings = settings_for(tmp_path, local=LocalSettings(echo=True, max_concurrency=4))
    async with service(settings, disk=disk) as (_, client):
        file = await client.upload(jsonl(chat_lines(100)))
        batches = [await client.create(file.id) for _ in range(3)]
        await until(refusals, lambda seen: seen >= 6)
        disk.full = False
        ended = [await client.ended(batch.id) for batch in batches]
        assert {batch.status for batch in ended} == {BatchStatus.BATCH_STATUS_COMPLETED}
        assert [batch.request_counts.completed for batch in ended] == [100] * 3


async def test_a_fresh_registry_does_not_sweep_the_files_of_another(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        file = await client.upload(jsonl(chat_lines(1)))
    other = replace(settings, database_url=f"sqlite:///{tmp_path / 'other.sqlite3'}")
    with pytest.raises(StartupError, match="belongs to another registry"):
        async with serving(other):
            pass
    async with service(settings) as (_, client):
        assert await client.read(file.id) == jsonl(chat_lines(1))


async def test_a_registry_in_use_is_refused_to_a_second_service(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    async with service(settings_for(tmp_path / "one", database_url=url)):
        with pytest.raises(StartupError, match="in use"):
            async with serving(settings_for(tmp_path / "two", database_url=url)):
                pass


async def test_a_grpc_port_in_use_is_refused(tmp_path: Path) -> None:
    async with service(settings_for(tmp_path / "one")) as (server, _):
        with pytest.raises(StartupError, match="can't listen"):
            async with serving(settings_for(tmp_path / "two", grpc_port=server.grpc_port)):
                pass
