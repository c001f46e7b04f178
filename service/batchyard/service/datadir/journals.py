"""The files in which results lie while a chunk runs: BATCH.CHUNK.TOKEN.journal, in the folder `work`."""

import os
import re
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"([A-Za-z0-9_-]+)\.([0-9]{1,9})\.[0-9a-z]+\.journal")


class JournalFile(NamedTuple):
    """A journal, and the id of the batch and the number of the chunk that it is of."""

    path: Path
    chunk: tuple[str, int]


def journal_files(folder: Path) -> tuple[list[JournalFile], list[str]]:
    """The journals in a folder, in the order of their names, and the names of what is there besides."""
    journals: list[JournalFile] = []
    others: list[str] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = _NAME.fullmatch(entry.name)
        if name and entry.is_file(follow_symlinks=False):
            journals.append(JournalFile(Path(entry.path), (name[1], int(name[2]))))
        else:
            others.append(entry.name)
    return journals, others
