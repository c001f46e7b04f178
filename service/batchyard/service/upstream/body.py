"""The body of an answer, as far as it came: what was answered and paid for is read even where its frame is broken."""

import asyncio
import zlib
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import aiohttp

from batchyard.service.upstream import transport

_INLINE = 64 << 10  # bytes that are unpacked without a thread
_GZIP = b"\x1f\x8b"
_PACKED = ("gzip", "x-gzip", "deflate")
_MOST_CODINGS = 3
_EITHER = zlib.MAX_WBITS | 32  # gzip or zlib, whichever it is
_LEAST_HEAD, _MOST_HEAD = 2, 512  # bytes by which it is told whether a body is packed


class Unpackable(Exception):
    """A body that is not packed in a way that can be read."""


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
    codings = codings_of(response.headers) or ["identity"]
    if codings == ["identity"] and not body.data.startswith(_GZIP):  # which no JSON starts with
        return body
    if len(body.data) <= _INLINE:
        return _unpacked(body, codings, most)
    return await asyncio.to_thread(_unpacked, body, codings, most)


async def _received(response: aiohttp.ClientResponse, most: int) -> AnswerBody:
    data = bytearray()
    try:
        async for piece in transport.received(response):
            data += piece
            if len(data) > most:
                return AnswerBody(bytes(data[:most]), End.TOO_LARGE)
    except transport.Misframed:
        return AnswerBody(bytes(data), fault="its framing can't be read")
    except (aiohttp.ClientError, OSError):
        return AnswerBody(bytes(data), End.BROKEN)
    return AnswerBody(bytes(data))


def _unpacked(body: AnswerBody, codings: list[str], most: int) -> AnswerBody:
    """What is not packed as its head says is left as it came."""
    data = body.data
    for coding in [*reversed(codings)][:_MOST_CODINGS]:
        if coding not in {*_PACKED, "identity"}:
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


async def unpacked(pieces: AsyncIterator[bytes], codings: Sequence[str]) -> AsyncIterator[bytes]:
    """The content of a body that is said to be packed so, as it comes; one that is not packed is left as it is.

    Raises Unpackable where it is packed in another way, or broken.
    """
    for coding in reversed(codings):
        if coding not in _PACKED:
            raise Unpackable
        pieces = _inflating(pieces, bare=coding == "deflate")
    async for piece in pieces:
        yield piece


def codings_of(headers: Mapping[str, str]) -> list[str]:
    """How an answer's Content-Encoding says that its body is packed, the last way outermost."""
    words = (word.strip().lower() for word in headers.get("content-encoding", "").split(","))
    return [word for word in words if word not in {"", "identity"}]


async def _inflating(pieces: AsyncIterator[bytes], *, bare: bool) -> AsyncIterator[bytes]:
    held, inflater = b"", None
    async for piece in pieces:
        held += piece
        while len(held) >= _LEAST_HEAD or (held and inflater and not inflater.eof):
            if inflater and inflater.eof and not held.startswith(_GZIP):  # what follows is no more of it
                return
            if inflater is None or inflater.eof:
                inflater = _inflater(held, bare=bare)
            if inflater is None:
                break
            try:
                found = inflater.decompress(held, transport.PIECE)
            except zlib.error as error:
                raise Unpackable from error
            held = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            if found:
                yield found
        if inflater is None and len(held) >= _LEAST_HEAD:
            yield held
            async for rest in pieces:
                yield rest
            return
    if inflater is None:
        yield held
    elif not inflater.eof:
        raise Unpackable


def _inflater(head: bytes, *, bare: bool) -> Any:
    """What unpacks a body that begins so; None where it is not packed."""
    if head.startswith(_GZIP) or (head[0] & 15 == zlib.DEFLATED and int.from_bytes(head[:2]) % 31 == 0):
        return zlib.decompressobj(_EITHER)
    try:
        getincrementaldecoder("utf-8")().decode(head[:_MOST_HEAD])
    except UnicodeDecodeError:
        return zlib.decompressobj(-zlib.MAX_WBITS) if bare else None
    return None
