from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.processes import process


@pytest.fixture
async def ports(tmp_path: Path) -> AsyncIterator[tuple[int, int]]:
    """REST's and gRPC's, of a server with the development configuration."""
    options = ["--config", "service/batchyard/cli/development.yaml", "--data-dir", str(tmp_path / "data")]
    options += ["--port", "0", "--grpc-port", "0"]
    with process(tmp_path / "log", "batchyard.cli.main", "serve", *options) as served:
        yield await served.port("REST on"), await served.port("gRPC on")
