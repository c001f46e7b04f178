"""The body of an answer, as far as it came: what was answered and paid for is read even where its frame is broken."""

import asyncio
import zlib
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

import aiohttp

_LOOK_SECONDS = 1.0  # without a byte, after which a look is taken whether the connection is there
_INLINE = 64 << 10  # bytes that are unpacked without a thread
_GZIP = b"\x1f\x8b"
_PACKED = ("gzip", "x-gzip", "deflate")
_MOST_CODINGS = 3


class End(Enum):
    """How a body ended."""

    WHOLE = auto()
    BROKEN = auto()  # the connection broke before its end
    TOO_LARGE = auto()


class AnswerBody(NamedTuple):
    """What there is of a body, unpacked; `fault` says what is wrong with its framing or packing, in our words."""

    data: bytes
    end: End = End.WHOLE
    fault: str = ""


async def read(response: aiohttp.ClientResponse, most: int) -> AnswerBody:
    """At most `most` bytes of a body whose session leaves it as it was sent."""
    body = await _received(response, most)
    codings = [word.strip().lower() for word in response.headers.get("content-encoding", "identity").split(",")]
    if codings == ["identity"] and not body.data.startswith(_GZIP):  # which no JSON starts with
        return body
    if len(body.data) <= _INLINE:
        return _unpacked(body, codings, most)
    return await asyncio.to_thread(_unpacked, body, codings, most)


async def _received(response: aiohttp.ClientResponse, most: int) -> AnswerBody:
    content, data = response.content, bytearray()
    while not content.at_eof():
        try:
            if content.is_eof():
                data += await content.readany()
            else:
                async with asyncio.timeout(_LOOK_SECONDS):
                    data += await content.readany()
        except TimeoutError:  # where the frame is broken the connection is closed, and nothing else says so
            if response.connection is None or response.connection.closed:
                return AnswerBody(bytes(data), fault="its framing can't be read")
        except (aiohttp.ClientError, OSError):
            return AnswerBody(bytes(data), End.BROKEN)
        if len(data) > most:
            return AnswerBody(bytes(data[:most]), End.TOO_LARGE)
    return AnswerBody(bytes(data))


def _unpacked(body: AnswerBody, codings: list[str], most: int) -> AnswerBody:
    """What is not packed as its head says is left as it came."""
    data = body.data
    for coding in [*reversed(codings)][:_MOST_CODINGS]:
        if coding not in {*_PACKED, "identity", ""}:
            return body._replace(fault="it has a Content-Encoding that was not asked for")
        try:
            packed = coding in _PACKED or data.startswith(_GZIP)
            data = b"".join(_inflated(data, most)) if packed else data
        except zlib.error:
            return body._replace(fault="it is not packed as its Content-Encoding says")
        if len(data) > most:
            return AnswerBody(data[:most], End.TOO_LARGE)
    return body._replace(data=data)


def _inflated(data: bytes, most: int) -> Iterator[bytes]:
    """The content of gzip, zlib and bare deflate, at most a byte more than `most`; what follows it is left out."""
    left, window = most + 1, zlib.MAX_WBITS | 32
    while data and left > 0:
        inflater = zlib.decompressobj(window)
        try:
            piece = inflater.decompress(data, left)
        except zlib.error:
            if left <= most:
                return
            if window < 0:
                raise
            window = -zlib.MAX_WBITS
            continue
        yield piece
        left -= len(piece)
        data = inflater.unused_data
