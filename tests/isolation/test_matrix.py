"""Every RPC against every kind of key and of id, over gRPC and over REST."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.registries import a_batch, a_file

from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry

from .asking import METHODS, Came, over_grpc, over_rest, routed
from .matrix import COLUMNS, MATRIX, Cell
from .scene import Scene, scene
from .statements import for_tenants

Send = Callable[..., Awaitable[Came]]


def test_every_rpc_of_the_contract_has_a_row() -> None:
    assert set(MATRIX) == set(METHODS)


@pytest.mark.parametrize("name", MATRIX)
def test_every_row_has_every_column_or_says_why_not(name: str) -> None:
    assert set(COLUMNS) <= set(MATRIX[name])
    assert all(isinstance(cell, Cell) or len(cell) > 5 for cell in MATRIX[name].values())


@pytest.mark.parametrize("send", [over_grpc, over_rest])
async def test_every_cell_holds(tmp_path: Path, send: Send) -> None:
    wrong = []
    async with scene(tmp_path) as running:
        for name in filter(routed, MATRIX) if send is over_rest else MATRIX:
            wrong += [found async for found in differences(running, name, send)]
    assert not wrong, "\n".join(wrong)


async def test_another_tenants_id_takes_the_same_queries_as_a_missing_one(tmp_path: Path) -> None:
    """But for creations, whose batches' ends are waited for."""
    compared = 0
    async with scene(tmp_path) as running:
        for name, row in MATRIX.items():
            others, missing = row["others"], row["missing"]
            if isinstance(others, Cell) and isinstance(missing, Cell) and others.answer is None:
                asked = []
                for ask in [*missing.asks(running), *others.asks(running)]:
                    with for_tenants() as statements:
                        await over_grpc(running, name, ask)
                    asked.append(dict.fromkeys(statements) if name.endswith("CreateBatch") else statements)
                assert all(one == asked[0] for one in asked), name
                assert asked[0]
                compared += 1
    assert compared > 8


async def test_another_tenants_batch_does_not_hold_a_file(tmp_path: Path) -> None:
    """Nor is its id told: one that names the file has not begun to fail yet."""
    database = SqliteDatabase(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    try:
        mine, theirs = TenantRegistry(database, "team-a"), TenantRegistry(database, "team-b")
        await mine.add_file(a_file(1), [])
        await theirs.add_batch(a_batch(1, input_file_id="file-1"))
        assert (await mine.delete_file("file-1", "", 1)).id == "file-1"
    finally:
        database.close()


async def differences(running: Scene, name: str, send: Send) -> AsyncIterator[str]:
    """What is answered otherwise than its cell says, or shows anything of the other tenant."""
    cells = {column: cell for column, cell in MATRIX[name].items() if isinstance(cell, Cell)}
    absent = None
    if "missing" in cells:
        (ask,) = cells["missing"].asks(running)
        absent = (await send(running, name, ask)).without(ask.names)
    for column, cell in sorted(cells.items(), key=lambda item: item[0] == "own"):  # which may delete the thing
        for ask in cell.asks(running):
            came = await send(running, name, ask)
            good = (came.code, came.param) == cell.answer if cell.answer else came.without(ask.names) == absent
            if not good:
                yield f"{name}, {column}: {came} and not {cell.answer or absent}"
            if running.theirs.name in str(came):
                yield f"{name}, {column}: shows the other tenant's: {came}"
