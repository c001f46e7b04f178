"""The providers that the contract suite runs over, and what each of them does not do."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.deployments import at_deployment
from tests.groups.scene import settings_of
from tests.harness import Client, service, settings_for
from tests.memory_store import MemoryStore
from tests.upstream.azure import fake_azure
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks

from batchyard.service.config.settings import LocalSettings
from batchyard.service.objects.base import OpenStore

OPENAI_PURPOSES = frozenset({"fine-tune", "assistants", "batch", "user_data", "vision", "evals"})
READABLE = frozenset({"batch"})
_EMPTY = "no file that may be empty can be read there"
MODEL = "test-model"  # of the lines that the suite's batches have
_ONE_PURPOSE = "files of other purposes than `batch` are not taken there"
ONE_PURPOSE = dict.fromkeys(
    (
        "test_that_is_no_batch_may_be_empty",
        "test_of_an_empty_file_is_read_from_its_start_and_its_end",
        "test_is_filtered_by_purpose",
        "test_leads_to_what_it_holds",
    ),
    _ONE_PURPOSE,
)
EMPTY = dict.fromkeys(
    ("test_that_is_no_batch_may_be_empty", "test_of_an_empty_file_is_read_from_its_start_and_its_end"), _EMPTY
)


class Place(NamedTuple):
    """A running service with one provider.

    Batches of `client` run to their end; the lines of those of `stuck` take longer than any test. `purposes` are those
    that it takes, `readable` those whose content it gives back.
    """

    provider: str
    client: Client
    stuck: Client
    purposes: frozenset[str]
    readable: frozenset[str]


class Subject(NamedTuple):
    """A provider under test. `unsupported` has the names of tests for what it does not do, each with the reason."""

    name: str
    running: Callable[[Path], AbstractAsyncContextManager[Place]]
    unsupported: dict[str, str]


def _local(new_store: Callable[[], OpenStore | None]) -> Callable[[Path], AbstractAsyncContextManager[Place]]:
    """The provider over the stores that are opened so, its own for None."""

    @asynccontextmanager
    async def running(folder: Path) -> AsyncIterator[Place]:
        settled = settings_for(folder / "settled")
        stuck = settings_for(folder / "stuck", local=LocalSettings(echo=True, echo_delay_ms=60_000))
        async with (
            service(settled, open_store=new_store()) as (_, client),
            service(stuck, open_store=new_store()) as (_, other),
        ):
            yield Place("local", client, other, OPENAI_PURPOSES, OPENAI_PURPOSES)

    return running


def _at(
    provider: Literal["openai", "azure"], fake: Callable[..., Any], purposes: frozenset[str]
) -> Callable[[Path], Any]:
    """A service with nothing but a deployment; its settled and its stuck batches are at different ones."""

    @asynccontextmanager
    async def running(folder: Path) -> AsyncIterator[Place]:
        async with fake() as good, fake(Quirks(auto=False), key="sk-another") as slow:
            settled, stuck = (
                settings_for(folder / name, **at_deployment(provider, upstream))
                for name, upstream in (("settled", good), ("stuck", slow))
            )
            async with service(settled) as (_, client), service(stuck) as (_, other):
                yield Place(provider, client, other, purposes, READABLE)

    return running


@asynccontextmanager
async def _groups(folder: Path) -> AsyncIterator[Place]:
    """Two services with nothing but a group over two deployments each."""
    async with fake_azure() as one, fake_openai() as two, fake_azure(Quirks(auto=False), key="sk-another") as slow:
        settled = settings_for(folder / "settled", **settings_of([("azure", one), ("openai", two)], group=MODEL))
        stuck = settings_for(folder / "stuck", **settings_of([("azure", slow)], group=MODEL))
        async with service(settled) as (_, client), service(stuck) as (_, other):
            yield Place("groups", client, other, READABLE, READABLE)


SUBJECTS = [
    Subject("local", _local(lambda: None), unsupported={}),
    Subject("local, in another store", _local(lambda: MemoryStore().opened), unsupported={}),
    Subject("openai", _at("openai", fake_openai, OPENAI_PURPOSES), unsupported=EMPTY),
    Subject("azure", _at("azure", fake_azure, frozenset({"assistants", "batch", "fine-tune"})), unsupported=EMPTY),
    Subject("groups", _groups, unsupported=ONE_PURPOSE),
]
