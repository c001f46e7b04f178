"""What lies in a data directory beside what is ours is left alone, and what was moved aside is kept for a week."""

import os
from pathlib import Path
from time import time

import pytest
from tests.harness import chat_lines, jsonl, service, settings_for
from tests.registries import opened

from batchyard.common.clock import GuardedClock
from batchyard.service.datadir import pairing
from batchyard.service.datadir.aside import KEPT_SECONDS, Aside
from batchyard.service.datadir.disk import Disk
from batchyard.service.datadir.pairing import Pair
from batchyard.service.datadir.upkeep import Upkeep
from batchyard.service.registry.work import WorkRegistry

from .starting import STRAYS, aside, uploaded


async def test_journals_of_batches_that_the_registry_does_not_know_are_moved_aside(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        done = await client.ended((await client.create((await client.upload(jsonl(chat_lines(2)))).id)).id)
    work = settings.data_dir / "work"
    for name in (f"{done.id}.0.aa.journal", "batch_unknown.0.aa.journal"):
        (work / name).write_bytes(b"results")
    async with service(settings):
        assert not list(work.iterdir())
    assert aside(settings.data_dir) == {"work/batch_unknown.0.aa.journal"}


@pytest.mark.parametrize("name", STRAYS, ids=range(len(STRAYS)))
@pytest.mark.parametrize("folder", ["work", "store", "store/files"])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "circle"])
async def test_what_is_not_ours_is_left_alone_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, folder: str, kind: str
) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        await uploaded(client, 1)
    path = settings.data_dir / folder / name
    if kind == "file":
        path.write_bytes(b"x")
    elif kind == "folder":
        path.mkdir()
        (path / "inside").write_bytes(b"x")
    else:
        path.symlink_to(path if kind == "circle" else tmp_path / "nowhere")
    async with service(settings) as (_, client):
        batch = await client.run(chat_lines(2))
        assert batch.request_counts.completed == 2
    told = [record for record in caplog.records if "not ours" in record.message]
    assert os.path.lexists(path)
    assert len(told) == 1
    assert any(os.fsencode(name).decode("utf-8", "backslashreplace") in shown for shown in told[0].__dict__["names"])


@pytest.mark.parametrize(
    "name",
    ["files/notes.txt", "files/README", "files/file-abc.bak", "files/thumbs.db#1", "mine/file-1", "mine/a#1"],
)
async def test_what_has_only_the_form_of_a_key_is_left_alone_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        await uploaded(client, 1)
    path = settings.data_dir / "store" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"somebody's")
    async with service(settings):
        assert path.read_bytes() == b"somebody's"
    assert not aside(settings.data_dir)
    (told,) = [record for record in caplog.records if "not ours" in record.message]
    assert told.__dict__["names"] == [name]


@pytest.mark.parametrize("name", ["files/file-abc#1", "segments/batch_0a.0.1.output#1"])
async def test_what_a_crash_left_unfinished_is_removed(tmp_path: Path, name: str) -> None:
    settings = settings_for(tmp_path)
    path = settings.data_dir / "store" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    async with service(settings):
        assert not path.exists()


async def test_a_folder_with_the_name_of_a_journal_holds_up_no_chunk(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with service(settings) as (_, client):
        file = await client.upload(jsonl(chat_lines(2)))
        (settings.data_dir / "work/batch_x.0.aa.journal").mkdir()
        assert (await client.ended((await client.create(file.id)).id)).request_counts.completed == 2


@pytest.mark.parametrize("age", [b"nan", b"inf", b"1e9", b"", b"-1", b"\xff", None])
def test_an_age_that_makes_no_sense_is_none(tmp_path: Path, age: bytes | None) -> None:
    folder = tmp_path / "aside/20260101T000000Z-00000000"
    (folder / "files").mkdir(parents=True)
    (folder / "files/file-1").write_bytes(b"x")
    if age is not None:
        (folder / "age").write_bytes(age)
    Aside(tmp_path / "aside", Disk()).grow(60)
    assert aside(tmp_path) == {"files/file-1"}
    assert (folder / "age").read_text() == "60\n"


async def test_a_folder_aside_that_can_not_age_holds_up_neither_others_nor_the_generation(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    stuck, other = (tmp_path / f"data/aside/20260101T000000Z-0000000{number}" for number in range(2))
    (stuck / "age").mkdir(parents=True)
    other.mkdir()
    async with opened(tmp_path / "data") as database:
        pair = Pair(settings.data_dir, WorkRegistry(database, "w"))
        await pair.check()
        upkeep = Upkeep(pair, Aside(settings.data_dir / "aside", Disk()), GuardedClock(time, time), time)
        with pytest.raises(IsADirectoryError):
            await upkeep.turn()
        assert (other / "age").exists()
        assert pairing.read(settings.data_dir) is not None


def test_what_was_moved_aside_is_kept_for_a_week_of_running(tmp_path: Path) -> None:
    """Whatever the clock says, and however many processes that took."""
    store = tmp_path / "store"
    (store / "files").mkdir(parents=True)
    (store / "files/file-1").write_bytes(b"x")
    first = Aside(tmp_path / "aside", Disk())
    first.grow(2 * KEPT_SECONDS)
    first.move(store, "files/file-1")
    first.sync()
    for _ in range(6):
        Aside(tmp_path / "aside", Disk()).grow(KEPT_SECONDS / 7)
    assert aside(tmp_path) == {"files/file-1"}
    Aside(tmp_path / "aside", Disk()).grow(KEPT_SECONDS / 7 + 1)
    assert not list((tmp_path / "aside").iterdir())
