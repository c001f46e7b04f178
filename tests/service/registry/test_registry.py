"""The registry: its shared commits, and its isolation of tenants."""

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from tests.harness import refused, service, settings_for
from tests.registries import a_batch, a_file, failing, opened

from batchyard.service.domain.records import Part, Status
from batchyard.service.errors import BatchyardError, InvalidArgument, NotFound, StorageFull, Unavailable
from batchyard.service.registry.base import REGISTRY
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry


async def file_ids(registry: TenantRegistry, after: str = "", provider: str = "") -> list[str]:
    page, _ = await registry.list_files(provider=provider, purpose="", after=after, limit=1000, ascending=True)
    return [file.id for file in page]


async def batch_ids(registry: TenantRegistry, provider: str = "") -> list[str]:
    page, _ = await registry.list_batches(provider=provider, after="", limit=1000)
    return [batch.id for batch in page]


async def together(database: SqliteDatabase, *works: Callable[[Connection], Any]) -> list[Any]:
    """What the works return or raise, all in one group commit."""
    gate = threading.Event()
    tasks = [asyncio.create_task(database.write(work, REGISTRY)) for work in (lambda _: gate.wait(), *works)]
    await asyncio.sleep(0)  # each task runs up to its place in the writer's queue
    gate.set()
    return (await asyncio.gather(*tasks, return_exceptions=True))[1:]


def adding(number: int, **changes: Any) -> Callable[[Connection], Any]:
    row = a_file(number, tenant="a", **changes)
    names, marks = ", ".join(row), ", ".join("?" for _ in row)
    return lambda connection: (
        connection.exec_driver_sql(
            f"INSERT INTO files ({names}) VALUES ({marks})",  # noqa: S608 - the test's own names
            tuple(row.values()),
        ).rowcount
    )


class TestALook:
    async def test_is_taken_on_the_event_loop(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            assert await database.look(lambda _: threading.get_ident()) == threading.get_ident()

    async def test_is_left_to_a_thread_where_the_registry_is_busy(self, tmp_path: Path) -> None:
        def work(_: Connection) -> str:
            if threading.current_thread() is threading.main_thread():
                raise sqlite3.OperationalError("database is locked")
            return "read"

        async with opened(tmp_path) as database:
            assert await database.look(work) == "read"

    async def test_is_left_to_a_thread_while_the_disk_is_slow(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await database.look(lambda _: threading.Event().wait(0.03))
            assert await database.look(lambda _: threading.get_ident()) != threading.get_ident()

    async def test_says_that_the_registry_cant_be_read(self, tmp_path: Path) -> None:
        def fail(_: Connection) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        async with opened(tmp_path) as database:
            with pytest.raises(Unavailable):
                await database.look(fail)


class TestAGroupOfWrites:
    async def test_is_not_hurt_by_one_that_fails(self, tmp_path: Path) -> None:
        def fail(connection: Connection) -> None:
            adding(9)(connection)
            raise NotFound("nothing")

        async with opened(tmp_path) as database:
            await database.write(adding(1), REGISTRY)
            first, failed, twice, last = await together(database, adding(2), fail, adding(1), adding(3))
            assert (first, last) == (1, 1)
            assert isinstance(failed, NotFound)
            assert isinstance(twice, IntegrityError)
            assert await file_ids(TenantRegistry(database, "a")) == ["file-1", "file-2", "file-3"]

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE files SET status_details = ?",
            "INSERT INTO file_parts (file_seq, n, key, size) VALUES (9, 9, ?, 1)",
            "UPDATE files SET filename = ?",
        ],
    )
    async def test_fails_as_one_where_the_disk_is_full(self, tmp_path: Path, statement: str) -> None:
        def shrink(connection: Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")

        def grow(connection: Connection) -> None:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")

        def fill(connection: Connection) -> None:
            connection.exec_driver_sql(statement, ("x" * 100_000,))

        async with opened(tmp_path) as database:
            await database.write(adding(1), REGISTRY)
            results = await together(database, shrink, adding(2), fill, adding(3))
            assert [type(result) for result in results] == [StorageFull] * 4
            assert await file_ids(TenantRegistry(database, "a")) == ["file-1"]
            await together(database, grow, adding(4))
            assert await file_ids(TenantRegistry(database, "a")) == ["file-1", "file-4"]

    async def test_leaves_out_a_write_whose_caller_left_before_it_began(self, tmp_path: Path) -> None:
        started, gate = threading.Event(), threading.Event()

        def hold(_: Connection) -> None:
            started.set()
            gate.wait()

        async with opened(tmp_path) as database:
            running = asyncio.create_task(database.write(hold, REGISTRY))
            await asyncio.to_thread(started.wait)
            waiting = asyncio.create_task(database.write(adding(1), REGISTRY))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            gate.set()
            await running
            await database.write(adding(2), REGISTRY)
            assert await file_ids(TenantRegistry(database, "a")) == ["file-2"]


def ways(database: SqliteDatabase) -> dict[str, Callable[[Any], Awaitable[Any]]]:
    return {"look": database.look, "read": database.read, "write": partial(database.write, of=REGISTRY)}


BAD_SQL = {
    "a column": "SELECT the_full_name FROM files",
    "a table": "SELECT 1 FROM fulls",
    "a function": "SELECT full(1)",
    "a syntax": "SELECT full FROM",
}


class TestADefectOfOurs:
    """Whoever is told that the registry is away tries again, and again, what fails each time."""

    @pytest.mark.parametrize("statement", BAD_SQL.values(), ids=BAD_SQL)
    @pytest.mark.parametrize("way", ["look", "read", "write"])
    async def test_is_none_of_the_registrys_being_away(self, tmp_path: Path, statement: str, way: str) -> None:
        def plainly(connection: Connection) -> None:
            connection.exec_driver_sql(statement)

        def by_the_driver(connection: Connection) -> None:
            driver: Any = connection.connection.dbapi_connection
            driver.execute(statement)

        async with opened(tmp_path) as database:
            for work, error in ((plainly, DBAPIError), (by_the_driver, sqlite3.OperationalError)):
                with pytest.raises(error):
                    await ways(database)[way](work)

    async def test_hurts_no_other_write(self, tmp_path: Path) -> None:
        def fail(connection: Connection) -> None:
            adding(9)(connection)
            connection.exec_driver_sql("SELECT the_full_name FROM files")

        async with opened(tmp_path) as database:
            first, failed, last = await together(database, adding(1), fail, adding(2))
            assert (first, last) == (1, 1)
            assert isinstance(failed, DBAPIError)
            assert await file_ids(TenantRegistry(database, "a")) == ["file-1", "file-2"]

    async def test_is_answered_as_one(self, tmp_path: Path) -> None:
        """A service of a newer version runs on a schema that is not its own."""
        async with service(settings_for(tmp_path)) as (_, client):
            with closing(sqlite3.connect(tmp_path / "data/registry.sqlite3")) as other:
                other.execute("ALTER TABLE files RENAME COLUMN filename TO full_filename")
            for call in (client.upload(b"{}", purpose="user_data"), client.read("file-1")):
                async with refused(StatusCode.INTERNAL) as errors:
                    await call
                assert "filename" not in (errors[0].details() or "")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        *(
            (getattr(sqlite3, f"SQLITE_{name}"), Unavailable)
            for name in ["BUSY", "LOCKED", "IOERR", "CANTOPEN", "READONLY"]
        ),
        (sqlite3.SQLITE_IOERR_WRITE, Unavailable),
        (sqlite3.SQLITE_FULL, StorageFull),
    ],
)
@pytest.mark.parametrize("way", ["look", "read", "write"])
async def test_a_database_that_is_away_is_told_from_a_defect(
    tmp_path: Path, way: str, code: int, error: type[Exception]
) -> None:
    async with opened(tmp_path) as database:
        with failing(code, "SELECT 1"), pytest.raises(error):
            await ways(database)[way](lambda connection: connection.exec_driver_sql("SELECT 1").scalar())


class TestATenant:
    async def test_is_answered_alike_for_anothers_ids_and_for_unknown_ones(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            owner, other = TenantRegistry(database, "a"), TenantRegistry(database, "b")
            await owner.add_file(a_file(1), [])
            await owner.add_batch(a_batch(1))
            for ask in _asks(other):
                theirs, missing = await _error(ask(1)), await _error(ask(2))
                assert theirs
                assert missing
                assert type(theirs) is type(missing)
                assert theirs.message.replace("1", "2") == missing.message
                assert (theirs.param, theirs.code) == (missing.param, missing.code)
            assert await file_ids(owner) == ["file-1"]
            assert (await owner.get_batch("batch_1")).status == Status.VALIDATING

    async def test_whose_batch_names_anothers_file_neither_reads_nor_holds_it(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            owner, other = TenantRegistry(database, "a"), TenantRegistry(database, "b")
            await owner.add_file(a_file(1), [Part("files/1", 1)])
            batch = await other.add_batch(a_batch(1, "file-1"))
            assert await WorkRegistry(database, "w").input_of(batch) is None
            assert (await owner.delete_file("file-1", "", 5)).id == "file-1"

    @settings(max_examples=25, deadline=None)
    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from("ab"),
                st.sampled_from(["add file", "add batch", "delete file", "cancel batch"]),
                st.integers(0, 5),
            ),
            max_size=40,
        )
    )
    def test_never_sees_or_changes_anothers_rows(self, steps: list[tuple[str, str, int]]) -> None:
        with TemporaryDirectory() as folder:
            asyncio.run(_interleaved(Path(folder), steps))

    async def test_sees_only_the_rows_of_the_provider_it_asks_for(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            registry = TenantRegistry(database, "a")
            await registry.add_file(a_file(1, provider="other"), [])
            await registry.add_file(a_file(2), [])
            await registry.add_batch(a_batch(1, provider="other"))
            assert await file_ids(registry, provider="local") == ["file-2"]
            assert await file_ids(registry, provider="local", after="file-1") == ["file-2"]
            assert await batch_ids(registry, provider="local") == []
            assert (await registry.get_file("file-1", "other")).provider == "other"
            for refused in (
                registry.get_file("file-1", "local"),
                registry.get_batch("batch_1", "local"),
                registry.delete_file("file-1", "local", 5),
                registry.cancel_batch("batch_1", "local", 5),
            ):
                assert isinstance(await _error(refused), NotFound)


async def _interleaved(folder: Path, steps: list[tuple[str, str, int]]) -> None:
    """Plays the steps against a registry and against plain sets, each tenant with ids of both."""
    async with opened(folder) as database:
        tenants = {name: TenantRegistry(database, name) for name in "ab"}
        owners: dict[str, str] = {}
        alive: dict[str, set[str]] = {"a": set(), "b": set()}
        status: dict[str, str] = {}
        for name, step, number in steps:
            tenant = tenants[name]
            file_id, batch_id = f"file-{number}", f"batch_{number}"
            mine = owners.get(batch_id if "batch" in step else file_id) == name
            match step:
                case "add file" if file_id not in owners:
                    await tenant.add_file(a_file(number), [])
                    owners[file_id] = name
                    alive[name].add(file_id)
                case "add batch" if batch_id not in owners:
                    await tenant.add_batch(a_batch(number, "file-none"))
                    owners[batch_id] = name
                    status[batch_id] = Status.VALIDATING
                case "delete file":
                    deleted = await _error(tenant.delete_file(file_id, "", 5))
                    assert (deleted is None) == (file_id in alive[name])
                    alive[name].discard(file_id)
                case "cancel batch":
                    cancelled = await _error(tenant.cancel_batch(batch_id, "", 5))
                    assert (cancelled is None) == mine
                    status |= {batch_id: Status.CANCELLING} if mine else {}
        for name, tenant in tenants.items():
            assert set(await file_ids(tenant)) == alive[name]
            batches, _ = await tenant.list_batches(provider="", after="", limit=100)
            mine_now = {batch: status[batch] for batch in status if owners[batch] == name}
            assert {batch.id: batch.status for batch in batches} == mine_now


def _asks(registry: TenantRegistry) -> list[Callable[[int], Awaitable[Any]]]:
    """Every call of a registry that takes an id."""

    def files_after(number: int) -> Awaitable[Any]:
        return registry.list_files(provider="", purpose="", after=f"file-{number}", limit=5, ascending=True)

    return [
        lambda number: registry.get_file(f"file-{number}"),
        lambda number: registry.delete_file(f"file-{number}", "", 5),
        lambda number: registry.get_batch(f"batch_{number}"),
        lambda number: registry.cancel_batch(f"batch_{number}", "", 5),
        lambda number: registry.list_batches(provider="", after=f"batch_{number}", limit=5),
        files_after,
    ]


async def _error(call: Awaitable[Any]) -> BatchyardError | None:
    try:
        await call
    except (NotFound, InvalidArgument) as error:
        return error
    return None
