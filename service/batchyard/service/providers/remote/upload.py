"""An upload that goes on to a deployment as it comes: nothing is kept here but what is on its way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from typing import Any

from batchyard.service.config.settings import Limits
from batchyard.service.domain.names import BYTES_PER_TOKEN, PURPOSES
from batchyard.service.domain.records import FileRecord
from batchyard.service.errors import InvalidArgument
from batchyard.service.providers.base import FileDescription, check_digest, check_size
from batchyard.service.providers.openai.dialect import OpenAI
from batchyard.service.upstream.client import UpstreamClient
from batchyard.service.upstream.multipart import Fields, MultipartForm
from batchyard.service.workers import Run

_ANY_PURPOSE = max(PURPOSES, key=len)
_READ_AT_ONCE = 1 << 20
_MOST_HELD = 256  # pieces: small ones take many times their bytes

Register = Callable[[dict[str, Any], dict[str, Any]], Awaitable[FileRecord]]
"""Takes the deployment's answer, and what is known of a file that may become a batch's input, as a scan finds it."""


class StreamingUpload:
    """An `Upload`. Closed before `finish`, it breaks the form off without its end, so that nothing is kept there."""

    def __init__(
        self,
        client: UpstreamClient,
        dialect: OpenAI,
        begun: FileDescription,
        limits: Limits,
        idle_seconds: float,
        register: Register,
        read: Run,
    ) -> None:
        """`read` runs what reads the bytes, in a thread."""
        self.size = 0
        self._client = client
        self._dialect = dialect
        self._begun = begun
        self._limits = limits
        self._idle_seconds = idle_seconds
        self._register = register
        self._fields = dict(dialect.file_fields(begun))
        reserved = list(dialect.usual_fields(begun))  # they come last: the caller may still say otherwise
        if not begun.purpose:
            reserved.append(("purpose", _ANY_PURPOSE))
        self._form = MultipartForm(
            begun.filename, begun.content_type, list(self._fields.items()), reserved, begun.announced
        )
        self._content = _Content(read)
        self._pieces: asyncio.Queue[bytes | Fields] = asyncio.Queue(1)
        body = self._form.body(self._coming())
        self._answer = asyncio.create_task(client.send("files", "/files", body, self._form.headers()))

    async def write(self, data: bytes) -> None:
        self.size += len(data)
        check_size(self.size, self._limits)
        self._form.take(len(data))
        await self._content.note(data)
        await self._pass_on(data)

    async def finish(self, description: FileDescription, digest: bytes | None) -> FileRecord:
        check_size(self.size, self._limits)
        await self._content.end()
        check_digest(digest, self._content.sha256.digest())
        late = self._late_fields(description)
        self._form.check_end(late)
        await self._pass_on(late)
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await self._register(await self._answer, self._stats())
        except TimeoutError as error:
            raise self._client.late("The provider did not answer when the file was there.") from error

    async def close(self) -> None:
        """Breaks off what is still on its way."""
        self._answer.cancel()
        await asyncio.gather(self._answer, self._content.settle(), return_exceptions=True)

    def _stats(self) -> dict[str, Any]:
        """Of what nobody scans here: its lines, the last one without an end too, and its size in tokens.

        Whatever its purpose: not every provider asks for `batch` where a batch is created.
        """
        tokens, digest = self.size // BYTES_PER_TOKEN, self._content.sha256.hexdigest()
        return {"lines": self._content.lines, "models": [], "estimated_tokens": tokens, "sha256": digest}

    async def _pass_on(self, piece: bytes | Fields) -> None:
        """Waits until the deployment has taken what came before. Raises its refusal, which may come at any time."""
        if not self._pieces.full() and not self._answer.done():
            self._pieces.put_nowait(piece)
            return
        putting = asyncio.ensure_future(self._pieces.put(piece))
        try:
            async with asyncio.timeout(self._idle_seconds):
                await asyncio.wait({putting, self._answer}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise self._client.late(f"The provider took nothing for {self._idle_seconds:g} seconds.") from error
        finally:
            if not putting.done():
                putting.cancel()
        if self._answer.done():
            await self._answer
            if not putting.done() or putting.cancelled():
                raise InvalidArgument("The provider answered before the file had ended; it may have kept a part.")

    async def _coming(self) -> AsyncIterator[bytes | Fields]:
        while True:
            piece = await self._pieces.get()
            yield piece
            if not isinstance(piece, bytes):
                return

    def _late_fields(self, description: FileDescription) -> Fields:
        """The fields that were not known when the file began. Raises InvalidArgument where one was, and changed."""
        fields = dict(self._dialect.file_fields(description))
        for name, value in self._fields.items():
            if fields.get(name) != value:
                raise InvalidArgument(f"'{name}' can't change once data has come", param=name)
        fields = {name: value for name, value in self._dialect.usual_fields(description) if name not in fields} | fields
        return [(name, value) for name, value in fields.items() if name not in self._fields]


class _Content:
    """What is found out of bytes that only pass: in a thread, about a mebibyte at a time, while more of them come."""

    def __init__(self, run: Run) -> None:
        self.sha256 = sha256()
        self._run = run
        self._line_ends = 0
        self._last = b"\n"
        self._held: list[bytes] = []
        self._size = 0
        self._reading: asyncio.Future[None] | None = None

    @property
    def lines(self) -> int:
        """How many lines there are, the last one without an end too."""
        return self._line_ends + (self._last != b"\n")

    async def note(self, data: bytes) -> None:
        """Takes the next piece."""
        self._held.append(data)
        self._size += len(data)
        if self._size >= _READ_AT_ONCE or len(self._held) == _MOST_HELD:
            await self.settle()
            held, self._held, self._size = self._held, [], 0
            self._reading = asyncio.ensure_future(self._run(self._read, held))

    async def end(self) -> None:
        """Returns when all that came is read."""
        await self.settle()
        self._read(self._held)

    async def settle(self) -> None:
        """Returns when no thread reads."""
        if self._reading:
            await asyncio.shield(self._reading)

    def _read(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.sha256.update(piece)
            self._line_ends += piece.count(b"\n")
            self._last = piece[-1:]
