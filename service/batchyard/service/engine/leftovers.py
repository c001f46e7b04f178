"""What earlier processes left in the folder of journals."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from batchyard.service.datadir import strays
from batchyard.service.datadir.aside import Aside
from batchyard.service.datadir.journals import JournalFile, journal_files
from batchyard.service.registry.work import WorkRegistry

_GROUP = 500

_log = logging.getLogger("batchyard.engine")


async def sweep(folder: Path, work: WorkRegistry, aside: Aside) -> None:
    """Removes journals of chunks that were sealed before their journal could be removed.

    Those of batches that the registry does not know are moved `aside`, for they have results that may be all there
    is; so do those of chunks that a batch does not have yet, as beside an older registry: they wait for the chunk. What
    is no journal is left alone.
    """
    journals, others = await asyncio.to_thread(journal_files, folder)
    strays.warn(folder, others)
    ids = sorted({one.chunk[0] for one in journals})
    known, ended = await _those(work.known_batches, ids), await _those(work.ended_batches, ids)
    sealed_chunks = await work.sealed_chunks()
    sealed = [one for one in journals if one.chunk[0] in ended or one.chunk in sealed_chunks]
    unknown = [one for one in journals if one.chunk[0] not in known]
    if unknown:
        moved = {"files": len(unknown), "folder": str(aside.folder)}
        _log.warning("journals of batches that the registry does not know are moved aside", extra=moved)
    await asyncio.to_thread(_clear, folder, sealed, unknown, aside)


async def _those(ask: Callable[[list[str]], Awaitable[set[str]]], ids: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(ids), _GROUP):
        found |= await ask(ids[start : start + _GROUP])
    return found


def _clear(folder: Path, sealed: list[JournalFile], unknown: list[JournalFile], aside: Aside) -> None:
    for one in sealed:
        one.path.unlink()
    for one in unknown:
        aside.move(folder.parent, f"{folder.name}/{one.path.name}")
    if unknown:
        aside.sync()
