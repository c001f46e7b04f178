"""Deployments as the service opens them, without a service around them, and a clock for them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.deployments import QUICK
from tests.harness import figures, settings_for

from batchyard.common.tracing import OFF
from batchyard.service.access.upload_slots import UploadPlaces
from batchyard.service.config.settings import Deployment
from batchyard.service.providers.open import Opener
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.service.registry.dialects.sqlite import SqliteDatabase


class Clock:
    """Stands still until it is moved."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def remotes(
    folder: Path, *deployments: Deployment, clock: Callable[[], float], **upstream: Any
) -> AsyncIterator[list[RemoteProvider]]:
    """The deployments' providers; `upstream` are settings of how they are called. They make no batch of ours."""
    settings = settings_for(folder, upstream=replace(QUICK, **upstream))
    folder.mkdir(exist_ok=True)
    database = SqliteDatabase(f"sqlite:///{folder / 'registry.sqlite3'}")
    async with AsyncExitStack() as stack:
        stack.callback(database.close)
        own: Any = None
        opener = Opener(settings, database, lambda _: None, own, UploadPlaces(1), figures(), OFF, clock, clock, stack)
        yield [await opener.opened(deployment) for deployment in deployments]
