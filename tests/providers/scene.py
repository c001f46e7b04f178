"""A front door before one deployment that a fake plays, and what both sides of it saw."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Any, Literal

from tests.deployments import QUICK, at_deployment
from tests.harness import chat_lines, jsonl
from tests.rest.conftest import Door, batch_request, opened
from tests.upstream.azure import fake_azure
from tests.upstream.exchange import Seen
from tests.upstream.faults import to
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks
from tests.upstream.store import Upstream

Provider = Literal["openai", "azure"]

FAKES: dict[Provider, Any] = {"openai": fake_openai, "azure": fake_azure}
INPUT = jsonl(chat_lines(3))
CREATE = to("POST", "/batches")
LIST = to("GET", "/batches")
GET = to("GET", "/batches/[^/]+")
UPLOAD = to("POST", "/files")
GET_FILE = to("GET", "/files/[^/]+")
CONTENT = to("GET", "/content")


@dataclass
class Scene:
    """`folder` is where the service keeps its data."""

    fake: Upstream
    door: Door
    folder: Path

    def calls(self, where: Callable[[Seen], bool]) -> int:
        """How many requests the deployment got, of those that `where` is true of."""
        return sum(map(where, self.fake.requests))

    async def input(self) -> str:
        """A file that can be a batch's input."""
        return str((await self.door.upload(INPUT))["id"])

    async def post(self, file_id: str, *, key: str = "", **members: Any) -> Any:
        """The answer to a request for a batch."""
        headers = {"idempotency-key": key} if key else {}
        return await self.door.rest.post("/v1/batches", json=batch_request(file_id, **members), headers=headers)

    async def listed(self) -> list[dict[str, Any]]:
        return list((await self.door.rest.get("/v1/batches?limit=100")).json()["data"])

    def intents(self) -> int:
        """How many creations are in doubt."""
        return intents(self.folder)


def intents(folder: Path) -> int:
    path = f"file:{folder}/data/registry.sqlite3?mode=ro"
    with closing(sqlite3.connect(path, uri=True)) as connection:
        return int(connection.execute("select count(*) from intents").fetchone()[0])


@asynccontextmanager
async def scene(
    folder: Path,
    provider: Provider = "openai",
    quirks: Quirks = Quirks(),  # noqa: B008
    *,
    clock: Callable[[], float] = time,
    steady: Callable[[], float] | None = None,
    **upstream: Any,
) -> AsyncIterator[Scene]:
    """A front door with nothing but a deployment; `upstream` are settings of how it is called."""
    async with (
        FAKES[provider](quirks) as fake,
        before(fake, folder, provider, clock=clock, steady=steady, **upstream) as running,
    ):
        yield running


@asynccontextmanager
async def before(
    fake: Upstream,
    folder: Path,
    provider: Provider = "openai",
    *,
    clock: Callable[[], float] = time,
    steady: Callable[[], float] | None = None,
    deployment: dict[str, Any] | None = None,
    **upstream: Any,
) -> AsyncIterator[Scene]:
    """A front door before a fake that runs."""
    settings = at_deployment(provider, fake, upstream=replace(QUICK, **upstream))
    if deployment:
        settings["deployments"] = tuple(replace(one, **deployment) for one in settings["deployments"])
    async with opened(folder, clock=clock, steady=steady, **settings) as door:
        yield Scene(fake, door, folder)


def text(value: Any) -> str:
    """A message or an answer as text, to look for words in it."""
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
