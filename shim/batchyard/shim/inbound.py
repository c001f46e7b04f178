"""What every route reads from an HTTP request: metadata, provider, body, and whether the client is still there."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from grpc import StatusCode
from starlette.requests import Request
from starlette.types import Receive

from batchyard.common.calls import CallError
from batchyard.common.http.middleware import ClientLeft
from batchyard.shim.errors import RequestError

MAX_HEADER = 4096
DRAIN_BYTES = 16 * 1024 * 1024

T = TypeVar("T")


def metadata_of(request: Request) -> list[tuple[str, str]]:
    """The call's metadata: request id, client, authorization, and how that came: in `api-key`, with an api-version."""
    key, api_key = _single(request, "authorization"), _single(request, "api-key")
    version = request.query_params.get("api-version", "")
    for name, value in (("authorization", key), ("api-key", api_key), ("api-version", version)):
        if not (value.isascii() and value.isprintable() and len(value) <= MAX_HEADER):
            raise RequestError(400, f"The {name} must be at most {MAX_HEADER} printable ASCII characters.", param=name)
    client = ("batchyard-client", request.client.host if request.client else "")
    found = [("x-request-id", str(request.state.request_id)), client, ("authorization", key)]
    if api_key:
        found[2:] = [("authorization", key or f"Bearer {api_key}"), ("batchyard-key-scheme", "api-key")]
    return [*found, ("batchyard-api-version", version)] if version else found


def _single(request: Request, name: str) -> str:
    """A header's value, or none. Of two values, what stands before the shim may have checked the other one."""
    values = dict.fromkeys(request.headers.getlist(name))
    if len(values) > 1:
        text = f"The {name} header is given twice, with two values."
        raise RequestError(400, text, param=name, code="invalid_value")
    return next(iter(values), "")


def provider_of(request: Request, *, body: str = "") -> str:
    """The provider that the path, a header, the query or the body names; empty where none does.

    Raises RequestError where two of them disagree.
    """
    query = request.query_params
    named = [
        request.path_params.get("provider", ""),
        request.headers.get("custom-llm-provider", ""),
        *query.getlist("provider"),
        *query.getlist("custom_llm_provider"),
        body,
    ]
    different = list(dict.fromkeys(filter(None, named)))
    if len(different) > 1:
        text = f"The request names two providers: '{different[0]}' and '{different[1]}'."
        raise RequestError(400, text, param="provider", code="invalid_value")
    return different[0] if different else ""


def models_of(request: Request, model: str = "", targets: Iterable[str] = ()) -> list[str]:
    """The models that a header, the query or (`model`, `targets`) the body names; none where none does.

    `targets` are lists with commas, as in target_model_names. Raises RequestError where two of these places disagree.
    The request's state keeps which one it was, for a refusal to name.
    """
    query = request.query_params
    texts = [*query.getlist("target_model_names"), *targets]
    named = [
        *(("x-litellm-model", [name]) for name in request.headers.getlist("x-litellm-model")),
        *(("model", [name]) for name in (*query.getlist("model"), model)),
        ("target_model_names", [name.strip() for text in texts for name in text.split(",")]),
    ]
    different = {found: param for param, names in reversed(named) if (found := tuple(sorted({*names} - {""})))}
    if len(different) > 1:
        (one, param), (other, _), *_ = different.items()
        text = f"The request names two models: '{','.join(one)}' and '{','.join(other)}'."
        raise RequestError(400, text, param=param, code="invalid_value")
    for found, param in different.items():
        request.state.model_param = param
        return list(found)
    return []


def check_coding(request: Request) -> None:
    """Raises RequestError for a body that is compressed."""
    given = ",".join(request.headers.getlist("content-encoding")).lower()
    if {coding.strip() for coding in given.split(",")} - {"", "identity"}:
        text = "The request's body must come as it is, without a Content-Encoding."
        raise RequestError(400, text, param="content-encoding", code="invalid_value")


@dataclass(frozen=True)
class Bounds:
    """How long the shim waits, in seconds."""

    deadline: float = 60.0  # for a unary call, for its body, and for the first answer of a stream
    idle: float = 60.0  # for either side of a transfer, which as a whole may take any time
    drain: float = 5.0  # for the rest of a body that is refused
    quiet: float = 15.0  # for an event; then a comment shows the client, and those between, that the stream goes on


class Body:
    """A request's body, read piece by piece; TimeoutError, answered 408, where none comes for `bounds.idle` seconds."""

    def __init__(self, request: Request, bounds: Bounds) -> None:
        self._receive, self._state = request.receive, request.state
        self._bounds = bounds
        # A client that waits for "100 Continue" has sent nothing yet, and receiving would ask it to.
        self._unasked = request.headers.get("expect", "").lower() == "100-continue"
        self._ended = False

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises ClientLeft where the client leaves before it."""
        self._unasked = False
        while not self._ended:
            async with asyncio.timeout(self._bounds.idle):
                message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            self._ended = not message.get("more_body", False)
            if piece := message.get("body", b""):
                return bytes(piece)
        return b""

    async def read_all(self, limit: int) -> bytes:
        """The whole body; 413 where it is larger than `limit` bytes, TimeoutError after the deadline."""
        pieces = bytearray()
        async with asyncio.timeout(self._bounds.deadline):
            while len(pieces) <= limit and (piece := await self.read()):
                pieces += piece
        if len(pieces) > limit:
            await self.drain()
            raise RequestError(413, f"The request body is larger than {limit} bytes.")
        return bytes(pieces)

    async def drain(self) -> None:
        """Throw away what the client still sends, within bounds: many clients read an answer only after that."""
        left = DRAIN_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.drain):
                while left > 0 and not self._unasked and (piece := await self.read()):
                    left -= len(piece)
        self._state.close = not self._ended


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do `work`; if the client leaves first, cancel it and raise ClientLeft. The body must have been read."""
    task, left = asyncio.current_task(), False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        if task:
            task.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left and task and not task.uncancel():
            raise ClientLeft from None
        raise
    finally:
        watching.cancel()


async def within(seconds: float, moving: Awaitable[T]) -> T:
    """What is waited for in a call; CallError with DEADLINE_EXCEEDED where it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await moving
    except TimeoutError as error:
        raise CallError(StatusCode.DEADLINE_EXCEEDED, "nothing moved for too long") from error
