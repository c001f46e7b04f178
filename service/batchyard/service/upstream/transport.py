"""The HTTP clients of all that is upstream: httpx over aiohttp, or bare aiohttp, with a bounded pool for each place."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite
from time import time
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions

UNREACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Errors by which nothing was sent."""
BROKEN = (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError, OSError, asyncio.TimeoutError)
"""What a call raises that brought no answer."""
PIECE = 256 << 10
"""The most bytes of an answer that come at once."""
_USER_AGENT = "batchyard"
_HEADERS = {"accept": "*/*", "accept-encoding": "gzip, deflate", "user-agent": _USER_AGENT}
_KEEP_ALIVE_SECONDS = 30
_MOST_FAULT = 100
_LOOK_SECONDS = 1.0  # without a byte, after which a look is taken whether the connection is there
_MOST_WAIT = 86_400.0  # seconds; no batch waits for longer
MOST_HEADER, MOST_HEADERS = 256 << 10, 10_000  # bytes of a header, and headers: an answer that came is worth reading


class Misframed(aiohttp.ClientPayloadError):
    """A body whose framing can't be read, from some place on."""


async def received(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """A body as it comes, in pieces of at most PIECE bytes. Raises Misframed, and aiohttp's errors.

    Where the framing is broken aiohttp closes the connection, and nothing else says so: who waits would wait for ever.
    """
    content = response.content
    while not content.at_eof():
        try:
            async with asyncio.timeout(None if content.is_eof() else _LOOK_SECONDS):
                piece = await content.read(PIECE)
        except aiohttp.ServerTimeoutError:
            raise
        except TimeoutError:
            if not content.is_eof() and (response.connection is None or response.connection.closed):
                raise Misframed("the framing of the body can't be read") from None
        else:
            if piece:
                yield piece


class _Received(AiohttpResponseStream):
    """A body for httpx."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        super().__init__(answer)
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with map_aiohttp_exceptions():
            async for piece in received(self._answer):
                yield piece


class Outgoing:
    """A request's body on its way, which halts where an answer makes the rest of it useless."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._halted = False

    def halt(self) -> None:
        """Nothing more of it is sent; who sends it is cancelled when the answer is closed."""
        self._halted = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            if self._halted:
                await asyncio.Event().wait()
            yield piece


class Client:
    """What sends a request: it follows no redirect, keeps no cookie, and reads nothing from the environment.

    Answers are httpx's. Its own client looks for all of these at each call, and parses each URL three times.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str],
        headers: Mapping[str, str],
        content: bytes | Outgoing | None,
    ) -> httpx.Response:
        """The answer, its body unread; it has to be closed. Raises one of BROKEN."""
        whole = {**_HEADERS, **headers}
        answer = await self._session.request(
            method, url, params=params, headers=whole, data=content, allow_redirects=False, auto_decompress=False
        )
        return httpx.Response(answer.status, headers=answer.raw_headers, stream=_Received(answer))


@asynccontextmanager
async def opened(*, connections: int, connect: float, read: float) -> AsyncIterator[Client]:
    """A client. `connect` bounds the way to the server, `read` the wait for each piece of its answer, in seconds."""
    timeout = aiohttp.ClientTimeout(sock_connect=connect, sock_read=read)
    async with _session(connections, timeout=timeout) as session:
        yield Client(session)


@asynccontextmanager
async def bare(
    headers: Mapping[str, str], *, connections: int, connect: float, keep: bool = True
) -> AsyncIterator[aiohttp.ClientSession]:
    """What such a client speaks through, for calls that are small and many: httpx costs four times what aiohttp does.

    It follows redirects unless a call says otherwise, and leaves bodies as they were sent, for `read`; nothing bounds
    the wait for an answer. `keep`: connections serve one call after the other.
    """
    timeout = aiohttp.ClientTimeout(sock_connect=connect)
    whole = {**_HEADERS, **headers}
    async with _session(connections, keep=keep, headers=whole, timeout=timeout, auto_decompress=False) as session:
        yield session


def _session(connections: int, *, keep: bool = True, **options: Any) -> aiohttp.ClientSession:
    kept = {"keepalive_timeout": _KEEP_ALIVE_SECONDS} if keep else {"force_close": True}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, **kept),
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=MOST_HEADER,
        max_field_size=MOST_HEADER,
        max_headers=MOST_HEADERS,
        **options,
    )


def unreached(error: Exception) -> bool:
    """Whether a call failed before anything of it was sent."""
    return isinstance(error, UNREACHED)


def why_unreached(error: Exception) -> str:
    """The same in words that show no address."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name can't be resolved"
    if isinstance(error, aiohttp.ClientSSLError):
        return "no TLS connection to it can be made"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "it does not accept connections in time"
    return "it can't be reached"


def is_silent(error: Exception) -> bool:
    """Whether a connection ended before a byte of an answer came."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is what came of the answer's head
    return isinstance(error, aiohttp.ClientOSError)


def fault(error: aiohttp.ClientResponseError) -> str:
    """What is wrong with the head of an answer, without its bytes."""
    text = " ".join(error.message.split()).partition(" b'")[0].rstrip(": ")
    return f"it is no HTTP that can be read ({text[:_MOST_FAULT]})"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, at most a day: retry-after-ms, or Retry-After as seconds or as a date.

    A date is in UTC, in each of the three forms that HTTP knows (RFC 9110, 5.6.7), one of which doesn't say so.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    seconds = _number(headers.get("retry-after"))
    if seconds is not None:
        return _bounded(seconds)
    try:
        date = parsedate_to_datetime(headers["retry-after"])
        return _bounded((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time())
    except (KeyError, ValueError, OverflowError, TypeError, IndexError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), _MOST_WAIT)


def _number(text: str | None) -> float | None:
    try:
        found = float(text) if text else None
    except ValueError:
        return None
    return found if found is not None and isfinite(found) else None
