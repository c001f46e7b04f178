"""The two ways to run Batchyard that are measured, side by side, with all checks on."""

import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import provider
from tests.bench.load import HOST
from tests.bench.measure import APART, SERVE
from tests.harness import KEY
from tests.processes import Process, batchyard

from batchyard.service.config.settings import Quotas

TENANT_KEY = "sk-bench-team-key"

_PLENTY = 10**12


class Side(NamedTuple):
    """A running Batchyard: its ports and its processes."""

    name: str
    rest: int
    grpc: int
    processes: tuple[Process, ...]


def configure(folder: Path, upstream: int | None = None, **local: Any) -> None:
    """Writes the configuration that each measurement has, with nothing but what is embedded as `local` says.

    Callers use a key of a tenant; the key and the tenant have every limit there is, none of which is ever met.
    `upstream` is the port of a provider that stands for OpenAI.
    """
    limits = dict.fromkeys((limit.name for limit in fields(Quotas)), _PLENTY)
    key = {"name": "bench", "key": TENANT_KEY, "tenant": "bench", "limits": limits}
    own = {
        "default_provider": "local",
        "local": local or {"echo": True},
        "limits": {"max_batch_lines": 1_000_000},
        "keys": [key],
        "tenant_limits": limits,
        "metrics_port": 0,
    }
    account = {"custom_llm_provider": "openai", "api_base": f"http://{HOST}:{upstream}/v1", "api_key": provider.KEY}
    whole = {
        "general_settings": {"master_key": KEY},
        "files_settings": [account] if upstream else [],
        "batchyard": own,
    }
    (folder / "config.yaml").write_text(json.dumps(whole))


@asynccontextmanager
async def sides(folder: Path, upstream: int | None = None, **local: Any) -> AsyncIterator[list[Side]]:
    """Both, each with data of its own in `folder`; their logs are files there."""
    with ExitStack() as stack:
        places = {name: folder / name for name in (SERVE, APART)}
        for place in places.values():
            place.mkdir()
            configure(place, upstream, **local)
        whole = stack.enter_context(batchyard(places[SERVE], "serve"))
        service = stack.enter_context(batchyard(places[APART], "service"))
        grpc = await service.port()
        shim = stack.enter_context(batchyard(places[APART], "shim", "--service", f"{HOST}:{grpc}"))
        yield [
            Side(SERVE, await whole.port("REST on"), await whole.port(), (whole,)),
            Side(APART, await shim.port("REST on"), grpc, (service, shim)),
        ]
