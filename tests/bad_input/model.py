"""What a bad input is, as data: how it is sent, and the answer that it must get.

Texts may name things that are there already as `$name`; `proving.Bench` says which and fills them in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.message import Message
from grpc import StatusCode
from tests.harness import KEY

from batchyard.v1 import UploadFileRequest

NO_HEADERS: Mapping[str, str] = {}


class Http(NamedTuple):
    """A REST request; no `key`: without an authorization header."""

    verb: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = NO_HEADERS
    key: str | None = KEY


class Raw(NamedTuple):
    """The first bytes on a connection of their own, which then waits for the answer."""

    data: bytes


class Rpc(NamedTuple):
    """A gRPC call: one message, or a whole stream of them; an `open` stream goes on without sending more."""

    name: str
    messages: Sequence[Message | bytes]
    key: str | None = KEY
    open: bool = False


class Input(NamedTuple):
    """A file of purpose batch, uploaded and run as a batch on both surfaces; `content` may make large ones late."""

    content: bytes | Callable[[], bytes]


@dataclass(frozen=True)
class Refused:
    """An error: REST's status, headers and envelope, and the gRPC status and reason that say the same.

    Without a `reason` gRPC itself refuses, and `message` is a part of what it says.
    """

    message: str
    param: str | None = None
    code: str | None = None
    status: int = 400
    grpc: StatusCode = StatusCode.INVALID_ARGUMENT
    reason: str | None = "INVALID_ARGUMENT"
    type: str = "invalid_request_error"
    headers: Mapping[str, str] = field(default_factory=dict)


class Wrong(NamedTuple):
    """One of a failed batch's `errors`."""

    code: str
    param: str | None
    line: int | None
    message: str


@dataclass(frozen=True)
class Failed:
    """The batch is accepted and becomes `failed`."""

    errors: tuple[Wrong, ...]


@dataclass(frozen=True)
class Fine:
    """Nothing is wrong with it; a batch completes with that many `lines`, a page has these files' `ids`."""

    lines: int | None = None
    ids: tuple[str, ...] = ()


Send = Http | Raw | Rpc | Input
Outcome = Refused | Failed | Fine


@dataclass(frozen=True)
class Case:
    """A bad input, every way in which it is sent, and what each must come to. `note` adds to what happens."""

    title: str
    outcome: Outcome
    sends: tuple[Send, ...]
    note: str = ""

    def ways(self) -> Iterator[tuple[Send, str]]:
        """Each way, with the surface that it goes over."""
        for send in self.sends:
            if isinstance(send, Http | Raw | Input):
                yield send, "REST"
            if isinstance(send, Rpc | Input):
                yield send, "gRPC"


class Group(NamedTuple):
    title: str
    cases: Sequence[Case]


def case(title: str, outcome: Outcome, *sends: Send, note: str = "") -> Case:
    return Case(title, outcome, sends, note)


def upload(*messages: UploadFileRequest, **more: Any) -> Rpc:
    """A gRPC upload of these messages."""
    return Rpc("UploadFile", messages, **more)
