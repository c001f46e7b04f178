"""What earlier processes left in the folder of journals."""

import asyncio
import logging
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
    is. What is no journal is left alone.
    """
    journals, others = await asyncio.to_thread(journal_files, folder)
    strays.warn(folder, others)
    known, open_chunks = await _known(work, sorted({one.chunk[0] for one in journals})), await work.open_chunks()
    sealed = [one for one in journals if one.chunk[0] in known and one.chunk not in open_chunks]
    unknown = [one for one in journals if one.chunk[0] not in known]
    if unknown:
        moved = {"files": len(unknown), "folder": str(aside.folder)}
        _log.warning("journals of batches that the registry does not know are moved aside", extra=moved)
    await asyncio.to_thread(_clear, folder, sealed, unknown, aside)


async def _known(work: WorkRegistry, ids: list[str]) -> set[str]:
    known: set[str] = set()
    for start in range(0, len(ids), _GROUP):
        known |= await work.known_batches(ids[start : start + _GROUP])
    return known


def _clear(folder: Path, sealed: list[JournalFile], unknown: list[JournalFile], aside: Aside) -> None:
    for one in sealed:
        one.path.unlink()
    for one in unknown:
        aside.move(folder.parent, f"{folder.name}/{one.path.name}")
    if unknown:
        aside.sync()
