"""The official SDKs work unchanged with a provider behind the door, and AzureOpenAI with only its endpoint changed."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.deployments import QUICK, deployment_of
from tests.harness import KEY, service, settings_for
from tests.tools import tool
from tests.upstream.azure import fake_azure
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks

from batchyard.common.http.listeners import listening
from batchyard.shim.app import create_app
from batchyard.shim.caller import connect

from . import test_openai_node as node
from . import test_openai_sdk as python
from .conftest import passes

pytestmark = pytest.mark.once
_LOCAL = {"a provider in the path"}  # is about the embedded one
_AZURES_LIFE = {"check_upload_of_a_path", "check_upload_with_an_expiry", "upload of a stream", "upload with an expiry"}
"""Checks of how long a file lives: at Azure 14 to 30 days."""
_SEEN = {"check_batches_are_listed_page_by_page", "batches are listed page by page"}
"""Checks that take long, and the routes beside see the same."""


class Route(NamedTuple):
    """A default provider, what the SDKs have as their URL after the address, and the checks that are not for it."""

    default: str
    path: str
    left_out: set[str]


ROUTES = {
    "openai": Route("openai", "/v1", _LOCAL),
    "openai's own": Route("azure", "/openai/v1", _LOCAL),
    "azure": Route("azure", "/v1", _LOCAL | _AZURES_LIFE),
    "azure's own": Route("openai", "/azure/v1", _LOCAL | _AZURES_LIFE),
    "AzureOpenAI": Route("openai", "", _LOCAL | _AZURES_LIFE),
    "AzureOpenAI at a provider": Route("openai", "/azure", _LOCAL | _AZURES_LIFE),
    "OpenAI at Azure's newer URL": Route("openai", "/azure/openai/v1", _LOCAL | _AZURES_LIFE),
}


@asynccontextmanager
async def both(folder: Path, default: str) -> AsyncIterator[str]:
    """The address of a front door with both providers."""
    async with fake_openai() as openai, fake_azure(Quirks(pending_reads=0, no_usage=False)) as azure:
        deployments = (deployment_of("openai", openai), deployment_of("azure", azure))
        more: dict[str, Any] = {"local": None, "deployments": deployments, "upstream": QUICK}
        async with (
            service(settings_for(folder, default_provider=default, **more)) as (server, _),
            connect(f"127.0.0.1:{server.grpc_port}") as caller,
            listening(create_app(caller), "127.0.0.1", 0, max_requests=1000) as listener,
        ):
            yield f"http://127.0.0.1:{listener.port}"


@pytest.mark.parametrize(
    ("version", "name"), [("2", "openai"), ("2", "AzureOpenAI at a provider"), *(("3", name) for name in ROUTES)]
)
async def test_pythons_sdk_passes_its_suite(tmp_path: Path, version: str, name: str) -> None:
    route = ROUTES[name]
    async with both(tmp_path, route.default) as address:
        left_out = sorted(python.CHECKS & (route.left_out | (_SEEN if version == "3" else set())))
        command = (tool(f".venv-openai{version}/bin/python"), python.SUITE, address + route.path, KEY, *left_out)
        await passes(python.CHECKS - set(left_out), *command)


@pytest.mark.parametrize("name", ["openai", "azure", "AzureOpenAI"])
async def test_nodes_sdk_passes_its_suite(tmp_path: Path, name: str) -> None:
    route = ROUTES[name]
    suite = shutil.copy(node.SUITE, tmp_path)
    (tmp_path / "node_modules").symlink_to(tool(".venv-node/node_modules"))
    async with both(tmp_path, route.default) as address:
        left_out = sorted(node.CHECKS & (route.left_out | (_SEEN if name != "openai" else set())))
        command = (tool(".venv-node/bin/node"), suite, address + route.path, KEY, *left_out)
        await passes(node.CHECKS - set(left_out), *command)
