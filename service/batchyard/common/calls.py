"""The seam between shim and service: the calls that a shim makes, over a channel or within one process."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

Metadata = Sequence[tuple[str, str]]

ACCEPTED = "batchyard-accepted"
"""The initial metadata by which the service says that it has let an upload in."""

BOUNDS = "batchyard-input-bounds"
"""Beside it, what each provider of the service's own takes as a batch's input: `local=50000/209715200`, the most lines
and bytes, with spaces between them; without a name in front: of the default provider."""

NOTE = "batchyard-note"
"""The initial metadata of CreateBatch with something that its caller should know, if there is any."""

DETAILS = "grpc-status-details-bin"
"""The trailer with a `google.rpc.Status`."""


class CallError(Exception):
    """A call failed: its status code, its message and, where the service sent them, its details."""

    def __init__(self, code: grpc.StatusCode, message: str, details: status_pb2.Status | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.details = details

    @classmethod
    def told(cls, code: grpc.StatusCode, message: str | None, trailer: Any) -> "CallError":
        """As a call's end says it."""
        packed = dict(trailer or ()).get(DETAILS)
        return cls(code, message or "", status_pb2.Status.FromString(packed) if packed else None)


class Upload(Protocol):
    """A call that sends many messages and receives one. Each of these raises CallError."""

    async def accepted(self) -> None:
        """Wait until the service has let the call in."""

    async def write(self, message: Message) -> None:
        """Send a message; waits while the service is behind."""

    async def result(self) -> Any:
        """End the stream and wait for the answer."""


class Caller(Protocol):
    """How a shim reaches the service, which its opener closes. A call that fails raises CallError.

    A task that is cancelled cancels its call, and a stream that hasn't ended is cancelled where its context ends.
    """

    async def unary(self, method: MethodDescriptor, request: Message, *, metadata: Metadata, deadline: float) -> Any:
        """Call, and wait at most `deadline` seconds."""

    def upload(self, method: MethodDescriptor, *, metadata: Metadata) -> AbstractAsyncContextManager[Upload]:
        """Open a stream of requests."""

    def download(
        self, method: MethodDescriptor, request: Message, *, metadata: Metadata
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Open a stream of answers."""


def path_of(method: MethodDescriptor) -> str:
    """A method's name as gRPC has it on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"
