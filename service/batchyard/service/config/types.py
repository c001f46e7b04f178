"""The kinds of values that settings have: what the loader checks of a field, by its annotation."""

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Annotated

MIB = 1 << 20
DAY = 86_400
TRILLION = 10**12


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers that a field may have, both ends included; no `high`: as large as you like."""

    low: float
    high: float | None = None


class TextFormat(Enum):
    """What a text must look like; `loading` checks it. A `SECRET` is never printed."""

    SECRET = auto()
    HTTP_URL = auto()
    DATABASE_URL = auto()
    ADDRESS = auto()
    SOCKET = auto()


Count = Annotated[int, Bounds(1)]
MaybeCount = Annotated[int | None, Bounds(1)]
Port = Annotated[int, Bounds(0, 65_535)]
Seconds = Annotated[float, Bounds(0)]
SomeSeconds = Annotated[float, Bounds(0.001)]
Secret = Annotated[str | None, TextFormat.SECRET]
Words = tuple[str, ...] | None
SocketPath = Annotated[Path | None, TextFormat.SOCKET]
