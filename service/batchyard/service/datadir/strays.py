"""Names in the data directory that are none of ours: left alone, and named in a warning."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

_SHOWN = 20

_log = logging.getLogger("batchyard.datadir")


def warn(folder: Path, names: Sequence[str]) -> None:
    """Says which names in a folder are not ours, the first of them at least, if there are any."""
    if names:
        shown = [printable(name) for name in sorted(names)[:_SHOWN]]
        told = {"folder": str(folder), "names": shown, "count": len(names)}
        _log.warning("there are files in the data directory that are not ours: they are left alone", extra=told)


def printable(name: str) -> str:
    """A file's name as text, whatever its bytes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
