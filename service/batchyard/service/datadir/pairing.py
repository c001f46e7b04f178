"""Which registry a data directory belongs to, and of which generation: a number that grows while a service runs.

The registry has the newer one at all times: it is committed there first, and then written to the directory's file. So
a file that is ahead says that the registry went back, to a copy or for lack of its write-ahead log, and that what it
doesn't name may be what was stored since. One that is behind says only that a process died in between.
"""

import asyncio
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote
from uuid import uuid4

from batchyard.service.datadir.aside import Aside
from batchyard.service.errors import FailedPrecondition

MARK = "registry.id"
_GO_ON = (
    "Put back the registry that belongs to these files, or a whole backup. To go on with this registry, start once "
    "with --accept-registry: files that it does not name are then moved aside and removed after a week."
)


_LOG = "-wal"


class Mark(NamedTuple):
    """The id of a registry and its generation."""

    registry: str
    generation: int


class RegistryState(Protocol):
    """What a registry says of itself: its id, its generation, and the newest time that was believed (Unix seconds)."""

    @property
    def id(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def newest_at(self) -> int: ...


class GenerationRegistry(Protocol):
    """What keeps the newer generation."""

    async def identity(self, new: str) -> RegistryState:
        """What the registry says of itself; it takes `new` as its id where it has none."""

    async def advance(self, generation: int, newest_at: int) -> None:
        """Commits a generation and the newest time that is known."""


class Pair:
    """A data directory and the registry that was opened with it: `check`, then `advance` now and then."""

    def __init__(self, data_dir: Path, registry: GenerationRegistry) -> None:
        self._data_dir = data_dir
        self._registry = registry
        self._mark = Mark("", 0)

    async def check(self, *, accept: bool = False) -> int:
        """The newest time that the registry knows, in Unix seconds.

        Raises FailedPrecondition where the directory belongs to another registry, or to a later state of this one,
        unless the caller `accept`s that.
        """
        identity = await self._registry.identity(uuid4().hex)
        mark: Mark | None = None
        try:
            mark = await asyncio.to_thread(read, self._data_dir)
        except FailedPrecondition:
            if not accept:
                raise
        if mark and not accept:
            _compare(self._data_dir, mark, Mark(identity.id, identity.generation))
        self._mark = Mark(identity.id, max(identity.generation, mark.generation if mark else 0))
        return identity.newest_at

    async def advance(self, newest_at: int) -> None:
        """Begins the next generation, and keeps the newest time that is known. Raises StorageFull, OSError."""
        mark = self._mark._replace(generation=self._mark.generation + 1)
        await self._registry.advance(mark.generation, newest_at)
        self._mark = mark
        await asyncio.to_thread(write, self._data_dir, mark)


def check_file(data_dir: Path, registry: Path, aside: Aside, *, accept: bool = False) -> None:
    """Looks whether a registry's file is the one that belongs to a directory, before anything opens it to write.

    Raises FailedPrecondition, with all left as it is, where it is another or an older one, and where it is missing or
    empty though the directory says that it had one, or a write-ahead log is left. SQLite would make a new file and
    remove that log, with all that is in it; where the caller `accept`s that, the log is moved `aside` before.
    """
    there = registry.is_file() and registry.stat().st_size > 0
    log = registry.with_name(registry.name + _LOG)
    left = log.is_file() and log.stat().st_size > 0
    if accept:
        if left and not there:
            aside.move(registry.parent, log.name)
            aside.sync()
        return
    mark = read(data_dir)
    if there and mark and (found := of_registry(registry)):
        _compare(data_dir, mark, found)
    elif not there and (mark or left):
        state = "empty" if registry.is_file() else "missing"
        raise FailedPrecondition(
            f"The registry {registry} is {state}, and {data_dir} belongs to another registry than a new one. {_GO_ON}"
        )


def of_registry(registry: Path) -> Mark | None:
    """What a directory with this registry says, one without an id for a registry without tables.

    None where it is of an older Batchyard, was never served, or can't be read. The file is not written to.
    """
    address = f"file:{quote(str(registry.absolute()))}?mode=ro"
    with suppress(sqlite3.Error), closing(sqlite3.connect(address, uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return Mark("", 0)
        row = connection.execute("SELECT id, generation FROM identity").fetchone()
        return row and Mark(*row)
    return None


def _compare(data_dir: Path, mark: Mark, found: Mark) -> None:
    if mark.registry != found.registry:
        raise FailedPrecondition(f"{data_dir} belongs to another registry than the one that was opened. {_GO_ON}")
    if mark.generation > found.generation:
        raise FailedPrecondition(
            f"The registry is older than the files in {data_dir}: it is of generation {found.generation}, they are of "
            f"{mark.generation}. {_GO_ON}"
        )


def read(data_dir: Path) -> Mark | None:
    """What a data directory says; None where it says nothing, as a new one. Raises FailedPrecondition."""
    try:
        words = (data_dir / MARK).read_text().split()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FailedPrecondition(f"{data_dir / MARK} can't be read ({type(error).__name__}). {_GO_ON}") from error
    if not words:
        return None
    generation = words[1] if len(words) > 1 else "0"  # of a directory from before there were generations
    if len(words) > 2 or not (generation.isascii() and generation.isdecimal()) or len(generation) > 18:
        raise FailedPrecondition(f"{data_dir / MARK} is damaged. {_GO_ON}")
    return Mark(words[0], int(generation))


def write(data_dir: Path, mark: Mark) -> None:
    """Replaces what a data directory says, as a whole. Raises OSError."""
    partial = data_dir / f"{MARK}.partial"
    partial.write_text(f"{mark.registry} {mark.generation}\n")
    os.replace(partial, data_dir / MARK)
