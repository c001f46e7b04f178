"""The reserve of a full disk, as the registry's writer uses it."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from tests.harness import PATIENCE

from batchyard.service.datadir.reserve import Reserve
from batchyard.service.registry.base import REGISTRY
from batchyard.service.registry.dialects.sqlite import SqliteDatabase


class SlowReserve(Reserve):
    """One whose room is not back before the test says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1 << 20)
        self.given_back, self.may_be_back = threading.Event(), threading.Event()

    @contextmanager
    def lent(self) -> Iterator[None]:
        with super().lent():
            yield
            self.given_back.set()
            assert self.may_be_back.wait(PATIENCE)


async def test_a_deletion_is_answered_when_the_room_it_borrowed_is_back(tmp_path: Path) -> None:
    """Who is answered may fill the disk at once, and the next deletion needs the reserve again."""
    full = iter([True])

    def work(_: Connection) -> int:
        if next(full, False):
            raise OperationalError("", None, sqlite3.OperationalError("database or disk is full"))
        return 7

    reserve = SlowReserve(tmp_path / "reserve")
    database = SqliteDatabase(f"sqlite:///{tmp_path / 'registry.sqlite3'}", reserve=reserve)
    try:
        writing = asyncio.create_task(database.write(work, REGISTRY, urgent=True))
        assert await asyncio.to_thread(reserve.given_back.wait, PATIENCE)
        await asyncio.wait({writing}, timeout=0)
        assert not writing.done()
        reserve.may_be_back.set()
        assert await writing == 7
    finally:
        reserve.may_be_back.set()
        await asyncio.to_thread(database.close)
