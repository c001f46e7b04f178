"""The providers that the contract suite runs over, and what each of them does not do."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.harness import Client, service, settings_for

from batchyard.service.settings import LocalSettings


class Place(NamedTuple):
    """A running service with one provider.

    Batches of `client` run to their end; the lines of those of `stuck` take longer than any test.
    """

    provider: str
    client: Client
    stuck: Client


class Subject(NamedTuple):
    """A provider under test. `unsupported` has the names of tests for what it does not do, each with the reason."""

    name: str
    running: Callable[[Path], AbstractAsyncContextManager[Place]]
    unsupported: dict[str, str]


@asynccontextmanager
async def _local(folder: Path) -> AsyncIterator[Place]:
    settled = settings_for(folder / "settled")
    stuck = settings_for(folder / "stuck", local=LocalSettings(echo=True, echo_delay_ms=60_000))
    async with service(settled) as (_, client), service(stuck) as (_, other):
        yield Place("local", client, other)


SUBJECTS = [Subject("local", _local, unsupported={})]
