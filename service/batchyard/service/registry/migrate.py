"""The registry's schema: made at once where it is new, brought up to date by migrations where it is older."""

from pathlib import Path

from sqlalchemy import Connection, Index, inspect, text
from sqlalchemy.schema import CreateIndex, CreateTable

from batchyard.service.errors import FailedPrecondition
from batchyard.service.registry.schema import metadata

_MIGRATIONS = Path(__file__).parent / "migrations"
_VERSION = "alembic_version"
_VERSIONS = {path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")}
NEWEST = max(_VERSIONS)
_OTHER = "is not a registry that this Batchyard can read: {}. Is it another program's, or damaged? Nothing was changed."


def upgrade(connection: Connection, name: object) -> None:
    """Leaves the newest schema, within the caller's transaction.

    Raises FailedPrecondition, which calls the registry by `name`, for one that is newer than that, and for what is no
    registry.
    """
    tables = inspect(connection).get_table_names()
    if not tables:
        _make(connection)
        connection.exec_driver_sql(f"CREATE TABLE {_VERSION} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.execute(text(f"INSERT INTO {_VERSION} VALUES (:newest)"), {"newest": NEWEST})  # noqa: S608 - our own name
        return
    if _VERSION not in tables:
        raise FailedPrecondition(f"{name} {_OTHER.format('it has tables, but no version')}")
    found = str(connection.exec_driver_sql(f"SELECT version_num FROM {_VERSION}").scalar())  # noqa: S608 - our own name
    if found > NEWEST and len(found) == len(NEWEST) and found.isdecimal():
        raise FailedPrecondition(f"The registry {name} was made by a newer Batchyard than this one.")
    if found not in _VERSIONS:
        raise FailedPrecondition(f"{name} {_OTHER.format('its version is unknown')}")
    if found != NEWEST:
        migrate(connection)
    _check(connection, name)


def _check(connection: Connection, name: object) -> None:
    """Raises FailedPrecondition where a table or a column is missing."""
    found = inspect(connection).get_multi_columns()
    there = {(table, column["name"]) for (_, table), columns in found.items() for column in columns}
    missing = [
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.columns
        if (table.name, column.name) not in there
    ]
    if missing:
        raise FailedPrecondition(f"{name} {_OTHER.format(f'it has no {missing[0]}')}")


def _make(connection: Connection) -> None:
    """All tables, and their indexes in an order that never changes: of equals, SQLite takes the one that came last.

    So those that know a part of the rows come last.
    """
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda one: (_is_partial(one), str(one.name))):
            connection.execute(CreateIndex(index))


def _is_partial(index: Index) -> bool:
    return index.dialect_options["sqlite"]["where"] is not None


def migrate(connection: Connection, revision: str = "head") -> None:
    """Runs the migrations up to a revision, within the caller's transaction."""
    # Alembic takes longer to import than most starts need in all.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
