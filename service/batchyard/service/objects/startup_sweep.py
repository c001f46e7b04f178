"""Putting the store in order at a start: what a crash left, and what the registry does not name."""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from batchyard.service.background import to_the_end
from batchyard.service.datadir import strays
from batchyard.service.datadir.aside import Aside
from batchyard.service.errors import FailedPrecondition
from batchyard.service.objects.local import KEY, FileStore, removed

MOST_UNKNOWN = 100
"""Objects that nobody refers to and that a start moves aside unasked; it does so too while they are 1 % of all."""
_GROUP = 500
_STAGED = re.compile("#[0-9]+$")  # obstore's, until an object is whole

Known = Callable[[Sequence[str]], Awaitable[set[str]]]

_TOO_MANY = (
    "{} has {} files, of {}, that the registry does not name: it looks like an older registry, or another one. "
    "Put back the registry that belongs to the files, or a whole backup. To go on with this one, start once with "
    "--accept-registry: then those files are moved to {} and removed after a week."
)

_log = logging.getLogger("batchyard.store")


@dataclass
class _Census:
    """What a store has: whole objects, those of them that nobody refers to, and what else there is by name."""

    objects: int = 0
    unknown: int = 0
    unfinished: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)


async def sweep(store: FileStore, known: Known, aside: Aside, *, accept: bool = False) -> None:
    """Puts the store in order before anything is written, and counts its bytes.

    What an upload left unfinished is removed. Whole objects that nobody refers to are moved `aside`. Where they are
    many, which says that somebody else refers to them, FailedPrecondition is raised and nothing is touched, unless
    the caller `accept`s it. What is not of our making is left alone. `known` answers which of at most 500 keys
    somebody refers to.
    """
    census = await _census(store, known)
    if census.unknown > MOST_UNKNOWN and census.unknown * 100 > census.objects and not accept:
        raise FailedPrecondition(_TOO_MANY.format(store.root, census.unknown, census.objects, aside.folder))
    strays.warn(store.root, census.strays)
    for key in census.unfinished:
        await to_the_end(asyncio.to_thread(removed, store.root / key))
    if census.unknown:
        moved = {"files": census.unknown, "of": census.objects, "folder": str(aside.folder)}
        _log.warning("stored files that the registry does not name are moved aside", extra=moved)
        await _move(store.root, known, aside)


async def _census(store: FileStore, known: Known) -> _Census:
    """Counts what is there; obstore's own `list` hides its staging files, hence the walk."""
    found = _Census()
    walk = _walk(store.root, found)
    while group := await asyncio.to_thread(lambda: dict(islice(walk, _GROUP))):
        found.objects += len(group)
        named = await known(list(group))
        found.unknown += len(group.keys() - named)
        store.room.take(sum(size for key, size in group.items() if key in named), bounded=False)
    return found


async def _move(root: Path, known: Known, aside: Aside) -> None:
    walk = _walk(root, _Census())
    while group := await asyncio.to_thread(lambda: [key for key, _ in islice(walk, _GROUP)]):
        for key in set(group) - await known(group):
            await to_the_end(asyncio.to_thread(aside.move, root, key))
    await to_the_end(asyncio.to_thread(aside.sync))


def _walk(root: Path, others: _Census) -> Iterator[tuple[str, int]]:
    """The key and size of each whole object; notes what else is there in `others`."""
    for folder in _entries(root, others.strays, ""):
        if not Path(folder.path).is_dir():
            others.strays.append(folder.name)
            continue
        for entry in _entries(Path(folder.path), others.strays, f"{folder.name}/"):
            key = f"{folder.name}/{entry.name}"
            whole = _STAGED.sub("", key)
            if not KEY.fullmatch(whole) or not _is_file(entry):
                others.strays.append(key)
            elif whole != key:
                others.unfinished.append(key)
            else:
                yield key, entry.stat().st_size


def _is_file(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a link that leads in a circle
        return entry.is_file()
    return False


def _entries(folder: Path, strays: list[str], name: str) -> list[os.DirEntry[str]]:
    """What is in a folder; one that can't be read is one of `strays`."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        strays.append(name)
        return []
