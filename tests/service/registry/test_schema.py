"""The registry's schema: what is made at once is what the migrations make, and nothing of an older one is lost."""

import asyncio
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from time import time
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine
from tests.registries import a_batch, a_file, opened

from batchyard.service.domain.records import Part
from batchyard.service.errors import FailedPrecondition
from batchyard.service.registry.base import REGISTRY
from batchyard.service.registry.migrate import NEWEST, migrate
from batchyard.service.registry.schema import metadata
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry


class TestTheSchema:
    async def test_is_what_the_migrations_make(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
        with engine.begin() as connection:
            migrate(connection)
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        engine.dispose()

    async def test_is_so_to_the_letter_with_every_index(self, tmp_path: Path) -> None:
        async with opened(tmp_path):
            pass
        migrated = create_engine(f"sqlite:///{tmp_path / 'migrated.sqlite3'}")
        with migrated.begin() as connection:
            migrate(connection)
        migrated.dispose()
        made, other = (_definitions(tmp_path / f"{name}.sqlite3") for name in ("registry", "migrated"))
        assert made.pop("alembic_version")
        assert other.pop("alembic_version")
        assert made == other

    async def test_is_of_the_newest_migration_and_of_no_newer_one(self, tmp_path: Path) -> None:
        async with opened(tmp_path):
            pass
        engine = create_engine(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
        with engine.begin() as connection:
            assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == NEWEST
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        engine.dispose()
        with pytest.raises(FailedPrecondition, match="newer Batchyard"):
            async with opened(tmp_path):
                pass

    async def test_keeps_the_rows_of_an_existing_database(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await TenantRegistry(database, "a").add_file(a_file(1), [Part("files/x", 1)])
        async with opened(tmp_path) as database:
            registry = TenantRegistry(database, "a")
            file = await registry.get_file("file-1")
            assert await registry.parts(file) == [Part("files/x", 1)]

    async def test_brings_an_older_registry_up_to_date(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
        with engine.begin() as connection:
            migrate(connection, "0001")
            row = a_batch(1, tenant="a", metadata="{}")
            names, marks = ", ".join(row), ", ".join("?" for _ in row)
            connection.exec_driver_sql(
                f"INSERT INTO batches ({names}) VALUES ({marks})",  # noqa: S608 - the test's own names
                tuple(row.values()),
            )
        engine.dispose()
        async with opened(tmp_path) as database:
            batch = await TenantRegistry(database, "a").get_batch("batch_1")
            assert (batch.endpoint, batch.traceparent) == ("/v1/responses", None)

    @pytest.mark.parametrize(
        ("created_at", "deployment", "newest"),
        [(1_700_000_000, None, 1_700_000_000), (1_700_000_000_000, None, None), (1_700_000_000, "openai", 0)],
        ids=["ours", "in the future", "a provider's"],
    )
    async def test_takes_the_newest_time_from_what_was_dated_here_and_is_past(
        self, tmp_path: Path, created_at: int, deployment: str | None, newest: int | None
    ) -> None:
        engine = create_engine(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
        with engine.begin() as connection:
            migrate(connection, "0008")
            row = a_batch(1, tenant="a", metadata="{}") | {"created_at": created_at, "deployment": deployment}
            names, marks = ", ".join(row), ", ".join("?" for _ in row)
            connection.exec_driver_sql("INSERT INTO identity (id) VALUES ('a')")
            connection.exec_driver_sql(
                f"INSERT INTO batches ({names}) VALUES ({marks})",  # noqa: S608 - the test's own names
                tuple(row.values()),
            )
        engine.dispose()
        async with opened(tmp_path) as database:
            found = (await WorkRegistry(database, "w").identity("new")).newest_at
        assert found == newest if newest is not None else abs(found - time()) < 60

    async def test_is_durable_on_every_connection(self, tmp_path: Path) -> None:
        readers = threading.Barrier(4)

        def pragmas(connection: Connection) -> tuple[Any, ...]:
            names = ("journal_mode", "synchronous")
            return tuple(connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names)

        def read(connection: Connection) -> tuple[Any, ...]:
            readers.wait(10)  # four readers at once have four connections
            return pragmas(connection)

        async with opened(tmp_path) as database:
            found = await asyncio.gather(*(database.read(read) for _ in range(4)), database.write(pragmas, REGISTRY))
        assert set(found) == {("wal", 2)}  # 2: FULL


def _definitions(path: Path) -> dict[str, str]:
    """Each table's and index's SQL, white space alike."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r"\s+", " ", sql) for name, sql in rows if not name.startswith("sqlite_")}
