"""A start deletes nothing that could be somebody's: not beside an older registry, another one, or a damaged one."""

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.harness import service, settings_for

from batchyard.common.metrics import Metrics
from batchyard.service.server import StartupError, serving

from .starting import aside, uploaded

FILES = 250


def content(data: Path) -> set[str]:
    """The names of all stored objects."""
    return {path.name for path in (data / "store").rglob("*") if path.is_file()}


def registry(data: Path) -> list[Path]:
    return sorted(data.glob("registry.sqlite3*"))


def put_back(data: Path, copy: Path) -> None:
    for path in registry(data):
        path.unlink()
    for path in copy.iterdir():
        shutil.copy(path, data / path.name)


def forget(data: Path, ids: list[str]) -> None:
    """Makes the registry one that never knew these files, as after a damaged write-ahead log."""
    with closing(sqlite3.connect(data / "registry.sqlite3", isolation_level=None)) as rows:
        for table, column in (("file_parts", "key"), ("files", "id")):
            prefix = "files/" if column == "key" else ""
            rows.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(prefix + one,) for one in ids])  # noqa: S608


async def refusal(folder: Path, **more: Any) -> str:
    with pytest.raises(StartupError) as caught:
        async with serving(settings_for(folder), Metrics(), **more):
            pass
    return str(caught.value)


async def test_a_few_files_that_the_registry_does_not_name_are_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        kept, *lost = await uploaded(client, 101)
    forget(settings.data_dir, lost)
    async with service(settings) as (_, client):
        assert await client.read(kept) == b"x0"
    assert content(settings.data_dir) == {kept}
    assert aside(settings.data_dir) == {f"files/{one}" for one in lost}
    (told,) = [record for record in caplog.records if "moved aside" in record.message]
    assert (told.levelno, told.__dict__["files"], told.__dict__["of"]) == (logging.WARNING, 100, 101)


async def test_many_are_refused_and_nothing_is_touched_until_the_registry_is_accepted(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        ids = await uploaded(client, FILES)
    forget(settings.data_dir, ids[:101])
    (settings.data_dir / "store/files" / f"{ids[0]}#1").write_bytes(b"half")
    before = content(settings.data_dir)
    for _ in range(2):
        said = await refusal(tmp_path)
        assert f"101 files, of {FILES}, that the registry does not name" in said
        assert "--accept-registry" in said
        assert content(settings.data_dir) == before
    async with serving(settings, Metrics(), accept_registry=True):
        pass
    assert content(settings.data_dir) == set(ids[101:])
    assert len(aside(settings.data_dir)) == 101
    async with service(settings) as (_, client):
        assert await client.read(ids[-1]) == b"x%d" % (FILES - 1)


async def test_many_of_very_many_are_moved_aside(tmp_path: Path) -> None:
    """One in a hundred is what crashes may leave in time."""
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        await uploaded(client, 1)
    with closing(sqlite3.connect(settings.data_dir / "registry.sqlite3", isolation_level=None)) as rows:
        known = [(9, number, f"files/known-{number}", 0) for number in range(20_000)]
        rows.execute("BEGIN")
        rows.executemany("INSERT INTO file_parts (file_seq, n, key, size) VALUES (?, ?, ?, ?)", known)
        rows.execute("COMMIT")
    for _, _, key, _ in known:
        (settings.data_dir / "store" / key).touch()
    for number in range(150):
        (settings.data_dir / "store/files" / f"unknown-{number}").touch()
    async with service(settings):
        pass
    assert len(aside(settings.data_dir)) == 150


async def test_an_older_registry_is_told_from_the_one_that_belongs_there(tmp_path: Path) -> None:
    settings, copy = settings_for(tmp_path), tmp_path / "monday"
    async with service(settings) as (_, client):
        first = await uploaded(client, 1)
    copy.mkdir()
    for path in registry(settings.data_dir):
        shutil.copy(path, copy)
    async with service(settings) as (_, client):
        later = await uploaded(client, 1)
    newest = tmp_path / "newest"
    newest.mkdir()
    for path in registry(settings.data_dir):
        shutil.copy(path, newest)
    put_back(settings.data_dir, copy)
    for _ in range(2):
        said = await refusal(tmp_path)
        assert "The registry is older than the files" in said
        assert "--accept-registry" in said
        assert content(settings.data_dir) == {*first, *later}
    put_back(settings.data_dir, newest)
    async with service(settings) as (_, client):
        assert await client.read(later[0]) == b"x0"
    put_back(settings.data_dir, copy)
    async with serving(settings, Metrics(), accept_registry=True):
        pass
    assert content(settings.data_dir) == set(first)
    assert aside(settings.data_dir) == {f"files/{later[0]}"}
    async with service(settings):
        pass


@pytest.mark.parametrize("starts", [1, 2])
async def test_a_registry_whose_log_was_damaged_by_a_power_cut_is_refused(tmp_path: Path, starts: int) -> None:
    """The log has what came since the last clean end; at the first start that is all."""
    live, crashed = settings_for(tmp_path / "live"), settings_for(tmp_path / "crashed")
    for _ in range(starts - 1):
        async with service(live):
            pass
    async with service(live) as (_, client):
        ids = await uploaded(client, 3)
        shutil.copytree(live.data_dir, crashed.data_dir)
    log = crashed.data_dir / "registry.sqlite3-wal"
    assert log.stat().st_size > 4096
    with log.open("r+b") as file:
        file.seek(40)
        file.write(b"damaged!")
    said = await refusal(tmp_path / "crashed")
    assert "--accept-registry" in said
    assert content(crashed.data_dir) == set(ids)
    async with serving(crashed, Metrics(), accept_registry=True):
        pass
    assert aside(crashed.data_dir) == {f"files/{one}" for one in ids}


async def test_another_registry_is_refused_until_it_is_accepted(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        ids = await uploaded(client, 2)
    for path in registry(settings.data_dir):
        path.unlink()
    async with serving(settings_for(tmp_path / "other"), Metrics()):
        pass
    shutil.copy(tmp_path / "other/data/registry.sqlite3", settings.data_dir)
    said = await refusal(tmp_path)
    assert "belongs to another registry" in said
    assert "--accept-registry" in said
    assert content(settings.data_dir) == set(ids)
    async with serving(settings, Metrics(), accept_registry=True):
        pass
    assert len(aside(settings.data_dir)) == 2


@pytest.mark.parametrize("left", ["nothing", "no bytes", "a log", "no bytes and a log"])
async def test_a_registry_that_is_gone_is_refused_and_its_log_is_kept(tmp_path: Path, left: str) -> None:
    """SQLite removes the log of a file that isn't there, or has no bytes."""
    live, gone = settings_for(tmp_path / "live"), settings_for(tmp_path / "gone")
    async with service(live) as (_, client):
        ids = await uploaded(client, 2)
        shutil.copytree(live.data_dir, gone.data_dir)
    path, log = gone.data_dir / "registry.sqlite3", gone.data_dir / "registry.sqlite3-wal"
    path.unlink()
    kept = log.read_bytes()
    if left.startswith("no bytes"):
        path.touch()
    if not left.endswith("log"):
        log.unlink()
    before = registry(gone.data_dir)
    for _ in range(2):
        said = await refusal(tmp_path / "gone")
        assert f"The registry {path} is {'empty' if 'bytes' in left else 'missing'}" in said
        assert "--accept-registry" in said
        assert registry(gone.data_dir) == before
        if left.endswith("log"):
            (gone.data_dir / "registry.id").unlink(missing_ok=True)
    async with serving(gone, Metrics(), accept_registry=True):
        pass
    assert {f"files/{one}" for one in ids} <= aside(gone.data_dir)
    if left.endswith("log"):
        (moved,) = (gone.data_dir / "aside").glob("*/registry.sqlite3-wal")
        assert moved.read_bytes() == kept


async def test_a_refusal_leaves_a_damaged_log_as_it_is(tmp_path: Path) -> None:
    live, crashed = settings_for(tmp_path / "live"), settings_for(tmp_path / "crashed")
    async with service(live) as (_, client):
        await uploaded(client, 3)
        shutil.copytree(live.data_dir, crashed.data_dir)
    log = crashed.data_dir / "registry.sqlite3-wal"
    damaged = bytearray(log.read_bytes())
    damaged[40:48] = b"damaged!"
    log.write_bytes(damaged)
    for _ in range(2):
        await refusal(tmp_path / "crashed")
        assert log.read_bytes() == damaged


@pytest.mark.parametrize("left", ["", "id only", "behind", "nothing"])
async def test_a_mark_that_a_crash_left_behind_is_no_reason_to_refuse(tmp_path: Path, left: str) -> None:
    settings = settings_for(tmp_path)
    for _ in range(3):
        async with service(settings):
            pass
    mark = settings.data_dir / "registry.id"
    name, generation = mark.read_text().split()
    if left == "nothing":
        mark.unlink()
    else:
        mark.write_text({"": "", "id only": name, "behind": f"{name} {int(generation) - 2}\n"}[left])
    async with service(settings) as (_, client):
        await uploaded(client, 1)
    assert mark.read_text().split() == [name, str(int(generation) + 1)]


@pytest.mark.parametrize("left", [b"\xff\xfe", b"a b c", b"a -1", b"a x"])
async def test_a_mark_that_makes_no_sense_is_named(tmp_path: Path, left: bytes) -> None:
    settings = settings_for(tmp_path)
    async with service(settings):
        pass
    (settings.data_dir / "registry.id").write_bytes(left)
    assert "registry.id" in await refusal(tmp_path)
    async with serving(settings, Metrics(), accept_registry=True):
        pass


def overwrite(data: bytearray) -> None:
    for at in range(4096, len(data), 4096):
        data[at : at + 200] = os.urandom(200)


def replace(data: bytearray) -> None:
    data[:] = b"this is no database" * 1000


@pytest.mark.parametrize("damage", [overwrite, replace])
async def test_a_damaged_registry_is_refused_with_what_to_do(
    tmp_path: Path, damage: Callable[[bytearray], None]
) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        ids = await uploaded(client, 30)
    path = settings.data_dir / "registry.sqlite3"
    damaged = bytearray(path.read_bytes())
    damage(damaged)
    path.write_bytes(damaged)
    said = await refusal(tmp_path)
    assert f"The registry {path} is damaged" in said
    assert "Restore a whole backup" in said
    assert content(settings.data_dir) == set(ids)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE alembic_version SET version_num = '0000'", "its version is unknown"),
        ("UPDATE alembic_version SET version_num = ''", "its version is unknown"),
        ("UPDATE alembic_version SET version_num = 'zzzz'", "its version is unknown"),
        ("DELETE FROM alembic_version", "its version is unknown"),
        ("DROP TABLE alembic_version", "it has tables, but no version"),
        ("DROP TABLE file_parts", "it has no file_parts."),
        ("ALTER TABLE identity DROP COLUMN newest_at", "it has no identity.newest_at"),
        ("UPDATE alembic_version SET version_num = '0008'", "duplicate column name"),
        ("UPDATE alembic_version SET version_num = '9999'", "made by a newer Batchyard"),
    ],
)
async def test_what_is_no_registry_of_ours_is_refused_with_the_reason(tmp_path: Path, change: str, said: str) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        ids = await uploaded(client, 2)
    with closing(sqlite3.connect(settings.data_dir / "registry.sqlite3", isolation_level=None)) as rows:
        rows.execute(change)
    for _ in range(2):
        told = await refusal(tmp_path)
        assert said in told
        assert str(settings.data_dir) in told
    assert content(settings.data_dir) == set(ids)


@pytest.mark.parametrize("name", ["work", "store", "lock", "registry.id.partial"])
async def test_what_is_of_the_wrong_kind_is_named(tmp_path: Path, name: str) -> None:
    settings = settings_for(tmp_path)
    async with service(settings):
        pass
    path = settings.data_dir / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_bytes(b"somebody's")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    assert f"can't be used: {path}: " in await refusal(tmp_path)
