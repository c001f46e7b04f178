"""Who needs what: a client only the contract, each server only its own half's dependencies."""

import subprocess
import sys

import pytest

SERVICE = {"sqlalchemy", "alembic", "obstore", "httpx", "aiohttp", "msgspec"}
SHIM = {"starlette", "uvicorn", "multipart", "httptools"}


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("batchyard.v1", SERVICE | SHIM | {"yaml", "uvloop"}),
        ("batchyard.cli.main", SERVICE | SHIM),
        ("batchyard.cli.service", SHIM),
        ("batchyard.cli.shim", SERVICE),
    ],
)
def test_a_half_imports_nothing_of_the_other(module: str, unneeded: set[str]) -> None:
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert not unneeded & set(loaded)
