"""SQLite behind two calls: `read`, and `write` with commits shared by all that wait (one fsync for many)."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import inf
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from batchyard.service.datadir.reserve import Reserve
from batchyard.service.errors import StorageFull, Unavailable
from batchyard.service.registry import integrity
from batchyard.service.registry.base import Aggregate, Work
from batchyard.service.registry.migrate import upgrade
from batchyard.service.registry.quota_headroom import QuotaHeadroom

T = TypeVar("T")

_READERS = 4
_GROUP = 256  # writes that share a commit at most
_SLOW_SECONDS = 0.02  # a look that takes longer is one at a disk that is slow at the moment
_SLOW_FOR_SECONDS = 1.0

_DEFECTS = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.InternalError,
    sqlite3.NotSupportedError,
)

_log = logging.getLogger("batchyard.service")


class _Write(NamedTuple):
    work: Work[Any]
    future: asyncio.Future[Any]
    urgent: bool


class _Outcome(NamedTuple):
    result: Any = None
    error: Exception | None = None


_Outcomes = dict[asyncio.Future[Any], _Outcome]


class SqliteDatabase:
    """Open with `SqliteDatabase(url)`, which brings the schema up to date; close with `close`.

    Opening raises FailedPrecondition where the file is damaged, or newer than this code.

    A unit of work is a function of a connection. It runs in a thread, must not await, and either all of a write's
    statements are committed, durably, or none is.
    """

    def __init__(
        self,
        url: str | URL,
        committed: Callable[[float], None] = lambda _: None,
        reserve: Reserve | None = None,
    ) -> None:
        """`committed` is told, in the writer's thread, how many seconds each commit took with its writes.

        `reserve` is lent to `urgent` writes alone, where the disk is too full for them.
        """
        self.headroom = QuotaHeadroom()
        self.expiry: Callable[[], float] = lambda: inf
        """The time by which what is remembered ends, where a clock is not believed; else the one that comes with it."""
        self._committed = committed
        self._reserve = reserve
        self._engine = _sqlite(url)
        path = Path(self._engine.url.database or "")
        try:
            with self._engine.begin() as connection:
                integrity.check(connection, path)
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                upgrade(connection, path)
        except (sqlite3.Error, DBAPIError) as error:
            if integrity.is_damage(error):
                raise integrity.damaged(path, str(getattr(error, "orig", error))) from error
            raise
        self._readers = ThreadPoolExecutor(_READERS, "registry-read")
        self._near = self._engine.connect()
        self._near.exec_driver_sql("PRAGMA busy_timeout=0")
        self._slow_until = 0.0
        self._pending: SimpleQueue[_Write | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_groups, name="registry-write")
        self._writer.start()

    async def read(self, work: Work[T]) -> T:
        """What `work` returns, from one consistent view of the registry. Raises Unavailable where it can't be read."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def look(self, work: Work[T]) -> T:
        """Like `read`, for one statement that gives a few rows found by an index: at once, on the event loop.

        That takes less than to tell a thread of it. While the disk is slow a thread does it nevertheless.
        """
        began = perf_counter()
        if began < self._slow_until:
            return await self.read(work)
        try:
            return work(self._near)
        except (sqlite3.Error, DBAPIError):  # busy, it may be, which a thread waits for
            return await self.read(work)
        finally:
            if (now := perf_counter()) - began > _SLOW_SECONDS:
                self._slow_until = now + _SLOW_FOR_SECONDS

    async def write(self, work: Work[T], of: Aggregate, *more: Aggregate, urgent: bool = False) -> T:
        """As `Database` has it. What is named doesn't matter here: there is one writer."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending.put(_Write(work, future, urgent))
        return await future

    def close(self) -> None:
        self._pending.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._near.close()
        self._engine.dispose()

    def _read(self, work: Work[T]) -> T:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                return work(connection)
        except (sqlite3.Error, DBAPIError) as error:
            raise _translated(error) from error

    def _write_groups(self) -> None:
        open_ = True
        while open_:
            group = [self._pending.get()]
            while len(group) < _GROUP and not self._pending.empty():
                group.append(self._pending.get())
            open_ = None not in group
            self._commit([entry for entry in group if entry and not entry.future.cancelled()])
            if self._reserve:
                self._reserve.make()

    def _commit(self, group: list[_Write]) -> None:
        outcomes, failure = self._attempt(group)
        urgent = [entry for entry in group if entry.urgent and entry.future not in outcomes]
        if self._reserve and urgent and isinstance(failure, StorageFull):
            _log.warning("the disk is full: a deletion or a cancellation uses the reserve")
            with self._reserve.lent():
                again, error = self._attempt(urgent)
                outcomes |= {entry.future: _Outcome(error=error) for entry in urgent} | again
        outcomes = {entry.future: _Outcome(error=failure) for entry in group} | outcomes
        for loop in {future.get_loop() for future in outcomes}:  # only now: they may take the room that was lent
            with suppress(RuntimeError):  # it is closed, and nobody waits any more
                loop.call_soon_threadsafe(_settle, loop, outcomes)

    def _attempt(self, group: list[_Write]) -> tuple[_Outcomes, Exception | None]:
        """Commits the group: what came of each, or why it failed, and of those alone whose own fault that was not."""
        failed: _Outcomes = {}
        done: _Outcomes = {}
        began = perf_counter()
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                driver: Any = connection.connection.dbapi_connection
                for work, future, _ in group:
                    driver.execute("SAVEPOINT one")
                    try:
                        result = work(connection)
                    except Exception as error:
                        if _is_operational(error):
                            raise  # a full or failing disk: SQLite may have rolled back the whole group
                        driver.execute("ROLLBACK TO one")
                        failed[future] = _Outcome(error=_caused(error))
                    else:
                        done[future] = _Outcome(result)
                    driver.execute("RELEASE one")
                connection.commit()
            self._committed(perf_counter() - began)
        except Exception as error:
            self.headroom.clear()
            return failed, _caused(error)
        return failed | done, None


def _settle(loop: asyncio.AbstractEventLoop, outcomes: _Outcomes) -> None:
    """Tells those of this loop what came of their writes, all at once."""
    for future, (result, error) in outcomes.items():
        if future.get_loop() is loop and not future.done():
            if error:
                future.set_exception(error)
            else:
                future.set_result(result)


def _sqlite(url: str | URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=_READERS + 2,
        max_overflow=0,
        connect_args={"check_same_thread": False},
        hide_parameters=True,  # errors are logged, and what callers sent is not
    )

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions are begun by us, not by the driver's guess
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=10000")

    return engine


def _caused(error: Exception) -> Exception:
    """The driver's error as ours, which names it as its cause: that is for the log."""
    ours = _translated(error)
    if ours is not error:
        ours.__cause__ = error
    return ours


def _translated(error: Exception) -> Exception:
    """The driver's error as ours; ours and defects as they are."""
    cause = _driver_error(error)
    if cause is None or _is_defect(cause):
        return error
    if _is_full(cause):
        return StorageFull("The storage of this service is full. Nothing was changed.")
    return Unavailable("The registry can't be reached right now. Nothing was changed.")


def _driver_error(error: Exception) -> sqlite3.Error | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return cause if isinstance(cause, sqlite3.Error) else None


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; None for an error that is not SQLite's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_defect(error: sqlite3.Error) -> bool:
    """Whether the statement is to blame: it fails again however often it is tried, on the healthiest disk.

    SQLITE_ERROR is what SQLite says of all SQL that it can't prepare: of words, tables, columns and functions that it
    does not know. Of disks, locks and memory it speaks by codes of their own (https://sqlite.org/rescode.html).
    """
    return isinstance(error, _DEFECTS) or _code(error) == sqlite3.SQLITE_ERROR


def _is_full(error: sqlite3.Error) -> bool:
    code = _code(error)
    full = "full" in str(error) if code is None else code == sqlite3.SQLITE_FULL
    return full and isinstance(error, sqlite3.OperationalError)


def _is_operational(error: Exception) -> bool:
    """Whether what a unit of work raised says how the database is, rather than what was asked of it."""
    cause = _driver_error(error)
    return isinstance(cause, sqlite3.OperationalError) and not _is_defect(cause)
