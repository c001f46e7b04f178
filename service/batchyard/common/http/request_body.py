"""The body of an HTTP/1.1 request, told from what comes after it."""

from typing import Protocol

import httptools

MAX_CHUNK_OVERHEAD = 64 << 10
_FREE_A_CHUNK = 256
_MOST_TRIES = 64

_END = b"\r\n\r\n"


class RequestError(Exception):
    """The request can't be read; `status` and `message` are what its client is answered."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


class Body(Protocol):
    """What is left of a request's body; `ended` once nothing is."""

    ended: bool

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """The content in `data`, and what follows the body. Raises RequestError."""
        ...


class CountedBody:
    """A body of `length` bytes."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = not length

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data, b""
        self._left, self.ended = 0, True
        return data[:left], data[left:]


class Events:
    """What httptools finds in one message. Fields of a trailer are thrown away."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.chunks = 0
        self.ended = False
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._in_head = False

    def on_chunk_header(self) -> None:
        self.chunks += 1

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        self.ended = True


class ChunkedBody:
    """A body in chunks, which the parser reads that has read the head.

    The parser never sees what follows the body: such a body ends with an empty line, and at each it is asked. Lines of
    chunks and a trailer may take MAX_CHUNK_OVERHEAD bytes, besides _FREE_A_CHUNK of each chunk.
    """

    def __init__(self, parser: httptools.HttpRequestParser, events: Events) -> None:
        self._parser = parser
        self._events = events
        self._tail = b""
        self._overhead = 0
        self.ended = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        view, start, events = memoryview(data), 0, self._events
        while start < len(data) and not events.ended:
            end = self._next_stop(data, start)
            self._feed(view[start:end])
            self._tail = data[max(start, end - 3) : end] if end - start >= 3 else (self._tail + data[start:end])[-3:]
            start = end
        content = events.pieces[0] if len(events.pieces) == 1 else b"".join(events.pieces)
        events.pieces.clear()
        self.ended = events.ended
        return content, data[start:]

    def _next_stop(self, data: bytes, start: int) -> int:
        """Behind the next empty line, which may have begun before `start`; at the end where there is none."""
        across = (self._tail + data[start : start + 3]).find(_END)
        if across >= 0:
            return start + across + len(_END) - len(self._tail)
        at = data.find(b"\r", start)  # by far the faster search, where few are there
        for _ in range(_MOST_TRIES):
            if at < 0 or data.startswith(_END, at):
                break
            at = data.find(b"\r", at + 1)
        else:
            at = data.find(_END, at)
        return at + len(_END) if at >= 0 else len(data)

    def _feed(self, data: memoryview) -> None:
        events = self._events
        pieces, chunks = len(events.pieces), events.chunks
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise RequestError(400, f"The request's chunks can't be read: {error}.") from None
        content = sum(map(len, events.pieces[pieces:]))
        free = _FREE_A_CHUNK * (events.chunks - chunks)
        self._overhead = max(0, self._overhead + len(data) - content - free)
        if self._overhead > MAX_CHUNK_OVERHEAD:
            raise RequestError(400, f"The chunks' lines or the trailer are larger than {MAX_CHUNK_OVERHEAD} bytes.")
