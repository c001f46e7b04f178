"""A front door that needs no key takes no requests of web pages, wherever these come from and whatever they call it."""

from pathlib import Path

import pytest
from tests.harness import settings_for
from tests.rest.conftest import rest_client

from batchyard.cli import shim
from batchyard.common.metrics import Metrics
from batchyard.common.tracing import OFF

from .conftest import served

EVIL = "https://evil.example"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-mode": "cors"}, 200),  # as Node's own client has it
        ({"sec-fetch-site": "none"}, 200),
        ({"host": "localhost:4000"}, 200),
        ({"host": "[::1]:4000"}, 200),
        ({"host": "0.0.0.0:4000"}, 200),
        ({"origin": EVIL}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "evil.example:4000"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "["}, 403),
        ({"host": ""}, 403),
    ],
)
async def test_without_a_key_only_programs_of_this_machine_call(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with served(settings_for(tmp_path, master_key=None)) as running, running.rest() as rest:
        answer = await rest.get("/v1/files", headers=headers)
        assert answer.status_code == status, answer.text
        assert status == 200 or answer.json()["error"]["message"].startswith("Without a key")


async def test_a_shim_alone_knows_no_keys_and_passes_on_what_a_proxy_calls_it(tmp_path: Path) -> None:
    async with served(settings_for(tmp_path)) as running:
        alone = settings_for(tmp_path, master_key=None)
        async with (
            shim.alone(alone, running.server.address, Metrics(), OFF) as listener,
            rest_client(listener.port) as rest,
        ):
            answer = await rest.get("/v1/files", headers={"origin": EVIL, "host": "batch.example"})
            assert answer.status_code == 200, answer.text


async def test_with_a_key_a_page_that_has_it_may(tmp_path: Path) -> None:
    async with served(settings_for(tmp_path)) as running, running.rest() as rest:
        assert (await rest.get("/v1/files", headers={"origin": EVIL, "host": "batch.example"})).status_code == 200
