"""The disk that loses its power, itself."""

from pathlib import Path

import pytest
from tests.faults import PowerCut


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    return root


def after(disk: PowerCut, destination: Path) -> dict[str, bytes]:
    disk.survivors(destination)
    files = (path for path in destination.rglob("*") if path.is_file())
    return {path.relative_to(destination).as_posix(): path.read_bytes() for path in files}


def test_synced_file_with_synced_name_survives(root: Path, tmp_path: Path) -> None:
    disk = PowerCut(root)
    (root / "a").write_bytes(b"hello")
    disk.sync_file(root / "a", site="file")
    disk.sync_dir(root, site="name")
    assert after(disk, tmp_path / "after") == {"a": b"hello"}
    assert disk.sites == {"file": 1, "name": 1}


def test_name_without_sync_is_lost(root: Path, tmp_path: Path) -> None:
    disk = PowerCut(root)
    (root / "a").write_bytes(b"hello")
    disk.sync_file(root / "a", site="file")
    assert after(disk, tmp_path / "after") == {}


def test_content_without_sync_is_lost(root: Path, tmp_path: Path) -> None:
    disk = PowerCut(root)
    (root / "a").write_bytes(b"hello")
    disk.sync_dir(root, site="name")
    assert after(disk, tmp_path / "after") == {"a": b""}


def test_growing_file_is_cut_back_to_its_last_sync(root: Path, tmp_path: Path) -> None:
    disk = PowerCut(root)
    with (root / "a").open("ab", buffering=0) as file:
        disk.sync_dir(root, site="name")
        file.write(b"one")
        disk.sync_data(file, site="data")
        file.write(b"two")
        assert after(disk, tmp_path / "after") == {"a": b"one"}


def test_removal_and_replacement_without_sync_are_undone(root: Path, tmp_path: Path) -> None:
    disk = PowerCut(root)
    for name in ("removed", "replaced", "new"):
        (root / name).write_bytes(name.encode())
        disk.sync_file(root / name, site="file")
    disk.sync_dir(root, site="name")
    (root / "removed").unlink()
    (root / "new").rename(root / "replaced")
    assert after(disk, tmp_path / "before") == {"removed": b"removed", "replaced": b"replaced", "new": b"new"}
    disk.sync_dir(root, site="name")
    assert after(disk, tmp_path / "after") == {"replaced": b"new"}


@pytest.mark.parametrize(("without", "survives"), [((), True), (("folder",), False), (("name",), False)])
def test_file_needs_the_names_of_all_its_folders(
    root: Path, tmp_path: Path, without: tuple[str, ...], survives: bool
) -> None:
    disk = PowerCut(root, without=without)
    disk.make_dir(root / "x" / "y", site="folder")
    (root / "x" / "y" / "a").write_bytes(b"hello")
    disk.sync_file(root / "x" / "y" / "a", site="file")
    disk.sync_dir(root / "x" / "y", site="name")
    assert after(disk, tmp_path / "after") == ({"x/y/a": b"hello"} if survives else {})


def test_database_is_kept_whole(root: Path, tmp_path: Path) -> None:
    disk = PowerCut(root)
    (root / "registry.db").write_bytes(b"rows")
    assert after(disk, tmp_path / "after") == {"registry.db": b"rows"}
