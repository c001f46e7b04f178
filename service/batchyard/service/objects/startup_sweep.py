"""Putting the local store in order at a start: what a crash left, and what the registry does not name.

Only there can it be done so: nobody writes while the data directory is locked and nothing is served. `sweep.sweep` is
for stores that others write to meanwhile.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from batchyard.service.background import to_the_end
from batchyard.service.datadir import strays
from batchyard.service.datadir.aside import Aside
from batchyard.service.errors import FailedPrecondition
from batchyard.service.objects.base import Known
from batchyard.service.objects.local import FileStore
from batchyard.service.objects.sweep import is_suspicious
from batchyard.service.objects.walk import Others, is_ours, walk

_GROUP = 500

_TOO_MANY = (
    "{} has {} files, of {}, that the registry does not name: it looks like an older registry, or another one. "
    "Put back the registry that belongs to the files, or a whole backup. To go on with this one, start once with "
    "--accept-registry: then those files are moved to {} and removed after a week."
)

_log = logging.getLogger("batchyard.store")


@dataclass
class _Census:
    """What a store has: whole objects, those of them that nobody refers to, and what else there is."""

    objects: int = 0
    unknown: int = 0
    others: Others = field(default_factory=Others)


async def sweep(store: FileStore, known: Known, aside: Aside, *, accept: bool = False) -> None:
    """Puts the store in order before anything is written, and counts its bytes.

    What an upload left unfinished is removed. Whole objects that nobody refers to are moved `aside`. Where they are
    many, which says that somebody else refers to them, FailedPrecondition is raised and nothing is touched, unless
    the caller `accept`s it. What is not of our making is left alone.
    """
    census = await _census(store, known)
    if is_suspicious(census.unknown, census.objects) and not accept:
        raise FailedPrecondition(_TOO_MANY.format(store.root, census.unknown, census.objects, aside.folder))
    strays.warn(store.root, [*census.others.strays, *census.others.unreadable])
    for key in census.others.unfinished:
        await to_the_end(asyncio.to_thread((store.root / key).unlink, missing_ok=True))
    if census.unknown:
        moved = {"files": census.unknown, "of": census.objects, "folder": str(aside.folder)}
        _log.warning("stored files that the registry does not name are moved aside", extra=moved)
        await _move(store.root, known, aside)


async def _census(store: FileStore, known: Known) -> _Census:
    found = _Census()
    objects = walk(store.root, found.others)
    while group := await asyncio.to_thread(lambda: list(islice(objects, _GROUP))):
        named = await known([one.key for one in group])
        unknown = [one.key for one in group if one.key not in named]
        found.others.strays += [key for key in unknown if not is_ours(key)]
        found.unknown += sum(map(is_ours, unknown))
        found.objects += sum(one.key in named or is_ours(one.key) for one in group)
        store.room.take(sum(one.size for one in group if one.key in named), bounded=False)
    return found


async def _move(root: Path, known: Known, aside: Aside) -> None:
    objects = walk(root, Others())
    while group := await asyncio.to_thread(lambda: [one.key for one in islice(objects, _GROUP)]):
        for key in filter(is_ours, set(group) - await known(group)):
            await to_the_end(asyncio.to_thread(aside.move, root, key))
    await to_the_end(asyncio.to_thread(aside.sync))
