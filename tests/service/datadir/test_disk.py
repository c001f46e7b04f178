"""The data directory's lock, and folders that survive."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from batchyard.service.datadir.disk import DirectoryInUse, DirectoryLock, Disk

HOLDER = """
import sys
from pathlib import Path
from batchyard.service.datadir.disk import DirectoryLock
with DirectoryLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_lock_is_refused_until_the_first_is_released(tmp_path: Path) -> None:
    second = DirectoryLock(tmp_path)
    with DirectoryLock(tmp_path), pytest.raises(DirectoryInUse, match="in use by another Batchyard process: stop that"):
        second.__enter__()
    with second:
        pass


def test_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DirectoryInUse):
            DirectoryLock(tmp_path).__enter__()
        holder.kill()
    with DirectoryLock(tmp_path):
        pass


def test_folder_is_made_with_its_parents_for_this_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    Disk().make_dir(folder, site="folder")
    Disk().make_dir(folder, site="folder")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_syncs_reach_the_system(tmp_path: Path) -> None:
    disk = Disk()
    with (tmp_path / "a").open("wb", buffering=0) as file:
        file.write(b"hello")
        disk.sync_data(file, site="data")
    disk.sync_file(tmp_path / "a", site="file")
    disk.sync_dir(tmp_path, site="name")
    with pytest.raises(FileNotFoundError):
        disk.sync_file(tmp_path / "missing", site="file")
    with pytest.raises(NotADirectoryError):
        disk.sync_dir(tmp_path / "a", site="name")


def test_a_disk_has_space(tmp_path: Path) -> None:
    assert Disk().free_bytes(tmp_path) > 0
