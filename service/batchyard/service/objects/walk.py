"""What there is in the folder of a local store. obstore's own `list` hides its staging files."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from batchyard.service.objects.base import KEY, StoredObject

_STAGED = re.compile("#[0-9]+$")  # obstore's, until an object is whole
_OURS = re.compile(r"files/[a-z]+-[A-Za-z0-9]+|segments/.+\.[0-9]+\.[0-9]+\.(output|error)")


def is_ours(key: str) -> bool:
    """Whether a key has the form of those that a service writes; another one is only ours if the registry names it."""
    return bool(_OURS.fullmatch(key))


@dataclass
class Others:
    """What is not a whole object, by name: what was being written, what is not ours, folders that can't be read."""

    unfinished: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    unreadable: dict[str, OSError] = field(default_factory=dict)


def walk(root: Path, others: Others, prefix: str = "") -> Iterator[StoredObject]:
    """The whole objects whose key begins with `prefix`; notes in `others` what else it came across. Blocks."""
    for folder in _entries(root, "", others):
        if not Path(folder.path).is_dir():
            others.strays.append(folder.name)
            continue
        inside = f"{folder.name}/"
        if not inside.startswith(prefix) and not prefix.startswith(inside):
            continue
        for entry in _entries(Path(folder.path), inside, others):
            key = inside + entry.name
            whole = _STAGED.sub("", key)
            if not KEY.fullmatch(whole) or not _is_file(entry):
                others.strays.append(key)
            elif whole != key:
                (others.unfinished if is_ours(whole) else others.strays).append(key)
            elif key.startswith(prefix):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    found = entry.stat()
                    yield StoredObject(key, found.st_size, found.st_mtime)


def _is_file(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a link that leads in a circle
        return entry.is_file()
    return False


def _entries(folder: Path, name: str, others: Others) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        others.unreadable[name] = error
        return []
