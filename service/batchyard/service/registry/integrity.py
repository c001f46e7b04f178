"""Whether a registry's file is whole, as far as SQLite can tell in little time."""

import sqlite3
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from batchyard.service.errors import FailedPrecondition

MOST_BYTES = 64 << 20
"""A larger file is not checked at a start: that would take longer than a moment."""
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def check(connection: Connection, path: Path) -> None:
    """Looks through a registry of at most 64 MiB. Raises FailedPrecondition where it is damaged."""
    if path.is_file() and path.stat().st_size <= MOST_BYTES:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise damaged(path, str(found))


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file itself is damaged."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def damaged(path: Path, why: str) -> FailedPrecondition:
    """What is said of a damaged registry."""
    return FailedPrecondition(
        f"The registry {path} is damaged: {' '.join(why.split())[:200]}. Nothing was changed. Restore a whole backup, "
        f"or put in its place what `sqlite3 {path.name} .recover` saves of it."
    )
