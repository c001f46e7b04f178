"""A request in hand: what is noted of it, its body as a stream, and its answer, whole or not."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.types import Message, Receive, Scope, Send
from tests.upstream.serving import Connection


class ClientLeft(Exception):
    """The client went away before its answer ended."""


class Part(NamedTuple):
    """A part of a form; `value` is the text of a field, and the SHA-256 of a file."""

    name: str
    headers: dict[str, str]
    value: str


@dataclass
class Seen:
    """A request as it came, and how it ended. Names of headers are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    length: int = 0  # bytes of the body that were read
    body: Any = None  # of JSON
    parts: list[Part] = field(default_factory=list)
    status: int | None = None
    left: bool = False
    sent: int = 0  # bytes of the answer's body that were given to the connection
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def content_length(self) -> int | None:
        value = self.headers.get("content-length")
        return None if value is None else int(value)

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding") == "chunked"


@dataclass
class Reply:
    """An answer; one without a content-length is chunked."""

    status: int
    headers: dict[str, str]
    pieces: Iterable[bytes]


def reply(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
    """An answer with bytes as they are, or anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    own = {} if status == 204 else {"content-length": str(len(data))}
    if not isinstance(body, bytes):
        own["content-type"] = "application/json"
    return Reply(status, {**own, **(headers or {})}, [data] if data else [])


class Exchange:
    """One request and its answer, over ASGI."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
        self.seen = Seen(scope["method"], scope["path"], query, headers)
        self._receive = receive
        self._send = send
        self._connection: Connection = scope["state"]["connection"]
        self._more = True

    @property
    def is_form(self) -> bool:
        return self.seen.headers.get("content-type", "").startswith("multipart/")

    async def read(self) -> bytes:
        """The next piece of the body; empty at its end."""
        while self._more:
            message = await self._receive()
            await self._reached()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            self._more = message.get("more_body", False)
            if piece := message.get("body", b""):
                self.seen.length += len(piece)
                return bytes(piece)
        return b""

    async def skip(self, count: int) -> None:
        """Reads `count` bytes of the body, or a few more."""
        while self.seen.length < count and await self.read():
            pass

    async def drain(self) -> None:
        """Reads the rest of the body."""
        while await self.read():
            pass

    async def note_json(self) -> None:
        """Reads a body that is no form, and notes it where it is JSON."""
        pieces = bytearray()
        while piece := await self.read():
            pieces += piece
        try:
            self.seen.body = json.loads(pieces) if pieces else None
        except ValueError:
            self.seen.body = bytes(pieces)

    async def answer(self, answer: Reply, *, most: int | None = None) -> None:
        """Sends an answer, or no more than `most` bytes of its body."""
        await self._begin(answer)
        for piece in answer.pieces if most is None else _cut(answer.pieces, most):
            await self._body(piece)
        if most is None:
            await self._end()
        else:
            await self._body(b"")  # once all before it has left

    async def answer_slowly(self, answer: Reply, seconds: float, size: int) -> None:
        await self._begin(answer)
        for piece in answer.pieces:
            for start in range(0, len(piece), size):
                await self._pause(seconds)
                await self._body(piece[start : start + size])
        await self._end()

    async def refuse(self, answer: Reply, *, abrupt: bool) -> None:
        """Answers in the midst of the body, and ends the connection."""
        answer.headers["connection"] = "close"
        await self._begin(answer)
        for piece in answer.pieces:
            await self._body(piece)
        try:
            while not abrupt and await self.read():
                pass
        except ClientLeft:
            return
        await self._end()

    async def break_off(self, *, clean: bool) -> None:
        """Ends the connection as it is."""
        await (self._connection.close() if clean else self._connection.reset())

    def lose(self, *, silent: bool) -> None:
        """Breaks the connection off, or lets nothing more come of it either way."""
        if silent:
            self._connection.silent = True
        else:
            self._connection.cut()

    def revive(self) -> None:
        """Breaks a silent connection off, as a system does that has forgotten it."""
        if self._connection.silent:
            self._connection.cut()

    async def hold(self) -> None:
        """Waits for the client to leave."""
        await self._connection.lost.wait()
        raise ClientLeft

    async def wait(self, gate: asyncio.Event) -> None:
        """Waits for the gate, while the client is there."""
        waits = [asyncio.create_task(event.wait()) for event in (gate, self._connection.lost)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        self._check()

    async def _begin(self, answer: Reply) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        await self._reached()
        self.seen.status = answer.status
        await self._give({"type": "http.response.start", "status": answer.status, "headers": headers})

    async def _body(self, piece: bytes) -> None:
        await self._give({"type": "http.response.body", "body": piece, "more_body": True})
        self.seen.sent += len(piece)

    async def _end(self) -> None:
        await self._give({"type": "http.response.body", "body": b"", "more_body": False})

    async def _give(self, message: Message) -> None:
        await self._reached()
        await self._send(message)
        self._check()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._connection.lost.wait()
        except TimeoutError:
            return
        raise ClientLeft

    async def _reached(self) -> None:
        if self._connection.silent:
            await self.hold()

    def _check(self) -> None:
        if self._connection.lost.is_set():
            raise ClientLeft


def _cut(pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    for piece in pieces:
        if most <= 0:
            return
        yield piece[:most]
        most -= len(piece)
