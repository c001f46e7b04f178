"""A copy of a data directory in which files come and go names nothing that it doesn't have."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.harness import service, settings_for

from batchyard.service.backup import BackupError, back_up

OTHERS = 3000  # files beside, so that a copy takes a moment


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A data directory with two files of content, kept and lost, and many that nothing names."""
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        for content in (b"kept", b"lost"):
            await client.upload(content, purpose="user_data", filename=f"{content.decode()}.txt")
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
    lose(data)
    with pytest.raises(BackupError, match="files were deleted all the while"):
        await asyncio.to_thread(back_up, data, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
