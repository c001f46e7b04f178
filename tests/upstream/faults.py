"""What can go wrong between a client and a provider."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.upstream.exchange import Seen

Where = Callable[[Seen], bool]


@dataclass(frozen=True)
class Answer:
    """This answer, instead of acting or (`acts`) after it.

    A `body` of bytes goes out as it is, anything else as JSON; with none it is what the provider says with the status.
    """

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    acts: bool = False


@dataclass(frozen=True)
class Reset:
    """The connection is reset, or (`clean`) closed, before anything is answered.

    It happens after acting, or after reading `after` bytes of an upload's body.
    """

    acts: bool = False
    after: int = 0
    clean: bool = False


@dataclass(frozen=True)
class Hang:
    """The request is read to its end and never answered."""

    acts: bool = False


@dataclass(frozen=True)
class Deaf:
    """After `after` bytes of an upload's body no more are read, and nothing is answered.

    Who reads nothing can't see the client leave: the request does not end before the connection does.
    """

    after: int = 0


@dataclass(frozen=True)
class Held:
    """The request waits at the gate, before acting or (`acts`) before its answer, and then goes on."""

    gate: asyncio.Event
    acts: bool = False


@dataclass(frozen=True)
class Refuse:
    """An answer after `after` bytes of an upload's body, and an end of the connection.

    It reads on until the client is done, so that the client can see the answer; unless `abrupt`.
    """

    after: int
    status: int = 413
    body: Any = None
    abrupt: bool = False


@dataclass(frozen=True)
class Broken:
    """The answer's body breaks off after `after` bytes: by a reset, or (`clean`) as if it ended there.

    It has promised its whole length, or (`chunked`) more chunks.
    """

    after: int
    chunked: bool = False
    clean: bool = False


@dataclass(frozen=True)
class Stalled:
    """Nothing comes after `after` bytes of the answer's body."""

    after: int


@dataclass(frozen=True)
class Slow:
    """The answer's body comes in pieces of `piece` bytes, each after `seconds`."""

    seconds: float
    piece: int = 1


@dataclass(frozen=True)
class Changed:
    """The answer's JSON goes out as `change` makes it: any value, or bytes as they are."""

    change: Callable[[Any], Any]


Fault = Changed | Answer | Reset | Hang | Deaf | Held | Refuse | Broken | Stalled | Slow


@dataclass
class Due:
    """A fault for the next `times` requests that it is for."""

    what: Fault
    times: int
    where: Where


def always(_: Seen) -> bool:
    """Every request."""
    return True


def to(method: str, path: str) -> Where:
    """Requests with that method whose path ends as the regular expression `path` says."""
    return lambda seen: seen.method == method and re.search(f"(?:{path})$", seen.path) is not None
