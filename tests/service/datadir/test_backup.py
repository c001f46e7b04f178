"""A copy of a data directory in which files come and go names nothing that it doesn't have."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.harness import service, settings_for

from batchyard.common.metrics import Metrics
from batchyard.service.datadir.backup import BackupError, back_up
from batchyard.service.server import StartupError, serving
from batchyard.v1 import ListFilesRequest

OTHERS = 3000  # files beside, so that a copy takes a moment


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A data directory with two files of content, kept and lost, the one with many more parts."""
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        for content in (b"kept", b"lost"):
            await client.upload(content, purpose="user_data", filename=f"{content.decode()}.txt")
    with closing(sqlite3.connect(settings.data_dir / "registry.sqlite3", isolation_level=None)) as registry:
        (seq,) = registry.execute("SELECT seq FROM files WHERE filename = 'kept.txt'").fetchone()
        rows = [(seq, number + 1, f"files/other-{number}", 0) for number in range(OTHERS)]
        registry.execute("BEGIN")
        registry.executemany("INSERT INTO file_parts (file_seq, n, key, size) VALUES (?, ?, ?, ?)", rows)
        registry.execute("COMMIT")
    for number in range(OTHERS):
        (settings.data_dir / f"store/files/other-{number}").touch()
    return settings.data_dir


def lose(data: Path) -> str:
    """Removes the bytes of the lost file, whose row is there yet; gives its id."""
    with closing(sqlite3.connect(data / "registry.sqlite3")) as registry:
        ((file_id,),) = registry.execute("SELECT id FROM files WHERE filename = 'lost.txt'")
    (data / "store/files" / file_id).unlink()
    return str(file_id)


async def test_a_file_that_goes_during_the_copy_is_left_out_by_a_second_try(tmp_path: Path, data: Path) -> None:
    file_id, copying = lose(data), tmp_path / "copy.partial/store"
    with closing(sqlite3.connect(data / "registry.sqlite3", isolation_level=None)) as registry:
        backup = asyncio.create_task(asyncio.to_thread(back_up, data, tmp_path / "copy"))
        while not copying.exists():  # noqa: ASYNC110 - as soon as the registry was copied
            await asyncio.sleep(0)
        registry.execute("UPDATE files SET deleted_at = 1 WHERE id = ?", (file_id,))
        assert await backup > 0
    with closing(sqlite3.connect(tmp_path / "copy/registry.sqlite3")) as registry:
        ((kept,),) = registry.execute("SELECT id FROM files WHERE deleted_at IS NULL")
    assert (tmp_path / "copy/store/files" / kept).read_bytes() == b"kept"


async def test_a_copy_that_never_has_all_its_files_is_refused_and_leaves_nothing(tmp_path: Path, data: Path) -> None:
    path = data / "store/files" / lose(data)
    with pytest.raises(BackupError, match=f"{path} is named by the registry and missing"):
        await asyncio.to_thread(back_up, data, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


async def test_a_copy_has_no_file_that_its_registry_does_not_name(tmp_path: Path, data: Path) -> None:
    for number in range(500):
        (data / f"store/files/unknown-{number}").touch()
    await asyncio.to_thread(back_up, data, tmp_path / "copied/data")
    assert not list((tmp_path / "copied/data/store/files").glob("unknown-*"))
    async with service(settings_for(tmp_path / "copied")) as (_, client):
        listed = await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)
        assert sorted(file.filename for file in listed.data) == ["kept.txt", "lost.txt"]


async def test_a_copy_that_was_put_in_the_place_of_the_whole_directory_starts(tmp_path: Path, data: Path) -> None:
    await asyncio.to_thread(back_up, data, tmp_path / "copy")
    async with service(settings_for(tmp_path)) as (_, client):  # and goes on
        await client.upload(b"later", purpose="user_data")
    shutil.rmtree(data)
    (tmp_path / "copy").rename(data)
    async with service(settings_for(tmp_path)) as (_, client):
        await client.upload(b"another", purpose="user_data")


async def test_a_registry_of_a_copy_beside_newer_files_is_refused(tmp_path: Path, data: Path) -> None:
    await asyncio.to_thread(back_up, data, tmp_path / "copy")
    async with service(settings_for(tmp_path)) as (_, client):
        await client.upload(b"later", purpose="user_data")
    for path in data.glob("registry.sqlite3*"):
        path.unlink()
    shutil.copy(tmp_path / "copy/registry.sqlite3", data)
    with pytest.raises(StartupError, match="The registry is older than the files"):
        async with serving(settings_for(tmp_path), Metrics()):
            pass


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a b", "sqlite://x", "a&mode=memory"])
async def test_a_folder_of_any_name_has_its_registry_within(tmp_path: Path, name: str) -> None:
    settings = settings_for(tmp_path, data_dir=tmp_path / name / "data")
    async with service(settings) as (_, client):
        file_id = (await client.upload(b"kept", purpose="user_data")).id
        assert await asyncio.to_thread(back_up, settings.data_dir, tmp_path / "backups" / name) > 0
    assert (settings.data_dir / "registry.sqlite3").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {Path(name).parts[0], "backups"}
    async with service(settings_for(tmp_path, data_dir=tmp_path / "backups" / name)) as (_, client):
        assert await client.read(file_id) == b"kept"


def test_a_backup_that_was_killed_is_told_of(tmp_path: Path, data: Path) -> None:
    (tmp_path / "copy.partial").mkdir()
    with pytest.raises(BackupError, match="one was killed: then remove it"):
        back_up(data, tmp_path / "copy")
