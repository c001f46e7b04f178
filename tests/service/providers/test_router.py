"""A batch goes where its input file is, unless its caller says where; an id leads to the place of its row."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from batchyard.service.errors import FailedPrecondition, InvalidArgument
from batchyard.service.providers.router import Router
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry


class Place:
    """As much of a `Provider` as a router looks at."""

    def __init__(self, name: str, place: str = "") -> None:
        self.name = name
        self.place = place or name


def router(*places: Any, default: str = "local") -> Router:
    return Router(places, default)


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[TenantRegistry]:
    database = await asyncio.to_thread(SqliteDatabase, f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    yield TenantRegistry(database, "default")
    await asyncio.to_thread(database.close)


def test_a_provider_stands_for_its_first_deployment() -> None:
    found = router(Place("local"), Place("azure"), Place("azure", "azure-2"))
    assert found.provider("azure").place == "azure"
    assert found.provider("azure-2").place == "azure-2"
    assert found.provider("").place == "local"


def test_a_name_that_nobody_has_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(InvalidArgument) as raised:
        router(Place("local"), Place("azure"), Place("azure", "east")).checked("moon")
    assert raised.value.message == "There is no provider 'moon' here. Configured: azure, east, local."
    assert raised.value.param == "provider"


@pytest.mark.parametrize(
    ("configured", "azure", "place"),
    [
        pytest.param(["openai", "azure"], False, "openai", id="openai, where it is configured"),
        pytest.param(["openai", "azure"], True, "azure", id="azure, for a client that speaks as Azure's do"),
        pytest.param(["azure"], False, "azure", id="azure, where no openai is configured"),
        pytest.param(["openai"], True, "openai", id="openai, where no azure is configured"),
    ],
)
def test_the_path_openai_means(configured: list[str], azure: bool, place: str) -> None:
    assert router(*map(Place, configured)).checked("openai", azure=azure) == place


async def test_a_row_leads_to_its_deployment_or_its_provider(owner: TenantRegistry) -> None:
    found = router(Place("local"), Place("azure"), Place("azure", "east"))
    here = await owner.add_file(file_row("file-1", "local"), [])
    there = await owner.add_file(file_row("file-2", "azure", deployment="east", native_id="file-2"), [])
    gone = await owner.add_file(file_row("file-3", "azure", deployment="west", native_id="file-3"), [])
    assert found.of(here).place == "local"
    assert found.of(there).place == "east"
    with pytest.raises(FailedPrecondition) as raised:
        found.of(gone)
    assert raised.value.message == "'file-3' is at 'west', which is not configured any more."


async def test_a_name_filters_by_provider_and_by_deployment(owner: TenantRegistry) -> None:
    await owner.add_file(file_row("file-1", "local"), [])
    await owner.add_file(file_row("file-2", "azure", deployment="east", native_id="file-2"), [])

    async def listed(provider: str) -> list[str]:
        page, _ = await owner.list_files(provider=provider, purpose="", after="", limit=9, ascending=True)
        return [file.id for file in page]

    assert await listed("") == ["file-1", "file-2"]
    assert await listed("local") == ["file-1"]
    assert await listed("azure") == await listed("east") == ["file-2"]


def file_row(an_id: str, provider: str, **more: str) -> dict[str, object]:
    return {
        "id": an_id,
        "provider": provider,
        "purpose": "batch",
        "filename": "input.jsonl",
        "bytes": 1,
        "created_at": 1,
        "status": "processed",
        **more,
    }
