"""Which registry a data directory belongs to, and of which generation: a number that grows while a service runs.

The registry has the newer one at all times: it is committed there first, and then written to the directory's file. So
a file that is ahead says that the registry went back, to a copy or for lack of its write-ahead log, and that what it
doesn't name may be what was stored since. One that is behind says only that a process died in between.
"""

import asyncio
import os
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

from batchyard.service.errors import FailedPrecondition

MARK = "registry.id"
_GO_ON = (
    "Put back the registry that belongs to these files, or a whole backup. To go on with this registry, start once "
    "with --accept-registry: files that it does not name are then moved aside and removed after a week."
)


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
            if mark.registry != identity.id:
                raise FailedPrecondition(
                    f"{self._data_dir} belongs to another registry than the one that was opened. {_GO_ON}"
                )
            if mark.generation > identity.generation:
                raise FailedPrecondition(
                    f"The registry is older than the files in {self._data_dir}: it is of generation "
                    f"{identity.generation}, they are of {mark.generation}. {_GO_ON}"
                )
        self._mark = Mark(identity.id, max(identity.generation, mark.generation if mark else 0))
        return identity.newest_at

    async def advance(self, newest_at: int) -> None:
        """Begins the next generation, and keeps the newest time that is known. Raises StorageFull, OSError."""
        mark = self._mark._replace(generation=self._mark.generation + 1)
        await self._registry.advance(mark.generation, newest_at)
        self._mark = mark
        await asyncio.to_thread(write, self._data_dir, mark)


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
