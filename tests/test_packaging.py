"""Who needs what: a client only the contract, each server only its own half's dependencies; and what a wheel has."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from tests.processes import ROOT

SERVICE = {"sqlalchemy", "alembic", "obstore", "httpx", "aiohttp"}
SHIM = {"starlette", "multipart"}
HTTP = {"httptools", "prometheus_client", "msgspec"}


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("batchyard.v1", SERVICE | SHIM | HTTP | {"yaml", "uvloop"}),
        ("batchyard.cli.main", SERVICE | SHIM | HTTP | {"grpc", "argparse", "asyncio"}),  # Ctrl-C has no traceback yet
        ("batchyard.cli.command", SERVICE | SHIM | HTTP | {"grpc"}),  # whose core reads what this says of its log
        ("batchyard.cli.service", SHIM),
        ("batchyard.cli.shim", SERVICE),
    ],
)
def test_a_half_imports_nothing_of_the_other(module: str, unneeded: set[str]) -> None:
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert not unneeded & set(loaded)


def test_a_wheel_has_what_is_read_at_run_time(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    read = {"shim/openapi.json", "cli/development.yaml", "service/registry/migrations/script.py.mako", "v1/py.typed"}
    with ZipFile(wheel) as archive:
        assert {f"batchyard/{name}" for name in read} <= set(archive.namelist())
