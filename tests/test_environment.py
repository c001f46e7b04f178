"""`.ci/environment`, which sees to it that make has a whole environment of a Python that fits."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import ROOT

SCRIPT = ROOT / ".ci/environment"
HERE = "%d.%d.%d" % sys.version_info[:3]  # noqa: UP031


def python(folder: Path, name: str, version: str = HERE, *, venv: bool = True) -> Path:
    """A Python that says that it is of this version; with what a real one has, or without venv."""
    fake = folder / name
    folder.mkdir(exist_ok=True)
    missing = "" if venv else 'case "$*" in *ensurepip*) echo "No module named ensurepip" >&2; exit 1 ;; esac\n'
    said = f'case "$*" in *base_prefix*) echo "{version} /opt/{version}"; exit ;; esac\n' if version != HERE else ""
    fake.write_text(f'#!/bin/sh\n{said}{missing}exec {sys.executable} "$@"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    return fake


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH with a shell's tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "sed", "grep", "find", "sort", "dirname", "basename", "rm", "env"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def made(path: Path, folder: Path, *more: str, home: str = "/nonexistent") -> tuple[int, str]:
    environ = {"PATH": str(path), "HOME": home, "MAKE_GOALS": "run"}
    command = ["/bin/sh", str(SCRIPT), str(folder), *more]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    return ran.returncode, ran.stderr


def ready(folder: Path) -> Path:
    (folder / ".ready").touch()
    return folder


def test_make_tells_its_goals_in_eighty_columns() -> None:
    command = ["make", "--no-print-directory", "help"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    lines = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True
    ).stdout.splitlines()
    assert "  run " in "\n".join(lines)
    assert [line for line in lines if len(line) > 80] == []


class TestWithoutAFittingPython:
    @pytest.mark.parametrize("version", ["3.10.13", "3.14.0", "2.7.18"])
    def test_it_says_what_is_there_what_is_needed_and_what_to_do(
        self, tmp_path: Path, path: Path, version: str
    ) -> None:
        python(path, "python3", version)
        code, said = made(path, tmp_path / ".venv")
        assert code == 1
        assert said.startswith(f"Batchyard needs Python 3.11 to 3.13. Found:\n  python3 is Python {version}\n")
        assert "make run PYTHON=" in said
        assert not (tmp_path / ".venv").exists()

    def test_it_says_that_there_is_none(self, tmp_path: Path, path: Path) -> None:
        assert "Found: none on the PATH" in made(path, tmp_path / ".venv")[1]

    def test_one_without_venv_is_named_with_what_is_missing(self, tmp_path: Path, path: Path) -> None:
        python(path, "python3", venv=False)
        code, said = made(path, tmp_path / ".venv")
        assert (code, "without its modules venv and ensurepip" in said, "-venv)" in said) == (1, True, True)

    def test_a_named_one_that_does_not_fit_is_refused_with_one_that_does(self, tmp_path: Path, path: Path) -> None:
        python(path, "python3")
        old = python(tmp_path / "old", "python3", "3.10.13")
        for named in (str(old), "python3.99"):
            code, said = made(path, tmp_path / ".venv", "own", named)
            assert (code, "make run PYTHON=python3\n" in said) == (1, True)
            assert f"  {named} is" in said


class TestItFinds:
    def test_another_than_the_plain_one(self, tmp_path: Path, path: Path) -> None:
        python(path, "python3", "3.10.13")
        python(path, f"python3.{sys.version_info[1]}")
        code, said = made(path, tmp_path / ".venv")
        assert code == 0
        assert "passed over:\n  python3 is Python 3.10.13\n" in said
        assert (tmp_path / ".venv/bin/python").exists()

    def test_pyenvs_where_its_shim_runs_none(self, tmp_path: Path, path: Path) -> None:
        short = f"3.{sys.version_info[1]}"
        there = tmp_path / f".pyenv/versions/{short}.99/bin"
        there.mkdir(parents=True)
        python(there, "python3")
        shim = path / f"python{short}"
        shim.write_text("#!/bin/sh\nexit 127\n")
        shim.chmod(0o755)
        for more in ((), ("tool", f"python{short}")):
            assert made(path, tmp_path / ".venv", *more, home=str(tmp_path))[0] == 0
            shutil.rmtree(tmp_path / ".venv")


class TestAnEnvironment:
    @pytest.fixture
    def whole(self, tmp_path: Path, path: Path) -> Path:
        python(path, "python3")
        assert made(path, tmp_path / ".venv")[0] == 0
        return ready(tmp_path / ".venv")

    @pytest.mark.parametrize("kind", ["own", "tool"])
    def test_that_is_whole_stays(self, path: Path, whole: Path, kind: str) -> None:
        (whole / "kept").touch()
        assert made(path, whole, kind) == (0, "")
        assert (whole / "kept").exists()

    @pytest.mark.parametrize(
        ("harm", "why"),
        [
            (lambda whole: (whole / ".ready").unlink(), "it is half made"),
            (lambda whole: (whole / "pyvenv.cfg").unlink() or (whole / ".ready").unlink(), "it is half made"),
            (lambda whole: os.replace(_dangling(whole), whole / "bin/python"), "its Python does not run"),
            (
                lambda whole: python(whole / "bin", "python", "3.10.13") if _gone(whole) else None,
                "it is of Python 3.10",
            ),
            (
                lambda whole: (whole / "bin/x").write_text("#!/old/.venv/bin/python\n"),
                "it was moved here from /old/.venv",
            ),
        ],
        ids=["half made", "hardly begun", "broken", "of an old Python", "moved"],
    )
    def test_that_is_not_is_made_again(self, path: Path, whole: Path, harm: object, why: str) -> None:
        (whole / "left").touch()
        harm(whole)  # type: ignore[operator]
        code, said = made(path, whole)
        assert (code, why in said, (whole / "left").exists()) == (0, True, False)
        assert made(path, ready(whole)) == (0, "")

    def test_of_another_python_is_made_again_where_it_runs_batchyard(self, path: Path, whole: Path) -> None:
        (whole / "left").touch()
        python(path, "python3", "3.12.99" if sys.version_info[1] != 12 else "3.13.99")
        assert made(path, whole, "tool") == (0, "")
        code, said = made(path, whole, "own")
        assert (code, "it is of Python" in said, (whole / "left").exists()) == (0, True, False)

    def test_that_is_none_is_left(self, tmp_path: Path, path: Path) -> None:
        python(path, "python3")
        folder = tmp_path / "photos"
        folder.mkdir()
        (folder / "one").touch()
        code, said = made(path, folder)
        assert (code, "no virtual environment" in said, (folder / "one").exists()) == (1, True, True)


def _dangling(whole: Path) -> Path:
    link = whole / "dangling"
    link.symlink_to("/nonexistent/python")
    return link


def _gone(whole: Path) -> bool:
    (whole / "bin/python").unlink()
    return True
