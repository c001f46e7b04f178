"""Runs lines against an OpenAI-compatible endpoint: retries, back-off, and a deadline for each line."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random
from time import perf_counter
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

import aiohttp
import msgspec

from batchyard.common.tracing import OFF, Tracing
from batchyard.service.engine.results import NO_TOKENS, TIMEOUT, Answer, Failure, Tokens, tokens_of
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.settings import LocalSettings
from batchyard.service.upstream import answers, http

_REFUSED = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # answered, so the line did not succeed: safe to repeat
_NOT_BEGUN = {409, 425, 429, 503, 529}  # of these, the ones that say that nothing was begun
STATEFUL = {"/v1/responses"}  # keeps what it made: a call whose answer was lost is not repeated
_BACKOFF_SECONDS = (0.5, 30.0)
_LONGEST_HINT = 600.0  # seconds; a longer Retry-After is taken for this


class LineRunner(Protocol):
    """What runs a line: the endpoint's path, and the request body as it stands in the input."""

    async def run(self, path: str, body: bytes, *, until: float, wanted: Callable[[], bool]) -> Answer | Failure | None:
        """The line's answer, or why there is none; at the event loop's time `until` at the latest.

        `wanted` is asked before each call; None: it said no. Never raises but for cancellation.
        """


class _Attempt(NamedTuple):
    outcome: Answer | Failure
    repeatable: bool
    hint: float | None = None  # seconds that the endpoint asked us to wait


class Endpoint:
    """An endpoint at `api_base` (which ends in /v1, as the SDKs write it), over one bounded pool of connections."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        settings: LocalSettings,
        metrics: ServiceMetrics,
        tracing: Tracing,
        random: Random,
    ) -> None:
        self._session = session
        self._base = (settings.api_base or "").rstrip("/")
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._random = random
        self._resume_at = 0.0

    async def run(self, path: str, body: bytes, *, until: float, wanted: Callable[[], bool]) -> Answer | Failure | None:
        outcome: Answer | Failure = TIMEOUT
        error = ""
        until += await self._pause(0, wanted)  # what all lines wait for is not the line's own time
        try:
            async with asyncio.timeout_at(until):
                for attempt in range(self._settings.max_attempts):
                    if attempt:
                        await self._pause(attempt, wanted)
                    if not wanted():
                        return None
                    if error:
                        self._metrics.upstream_retries(error).inc()
                    outcome, repeatable, hint = await self._attempt(path, body)
                    if error := error_kind(outcome):
                        self._metrics.upstream_errors(error).inc()
                    if not repeatable:
                        break
                    self._hold(hint)
        except TimeoutError:  # the last answer, if there was one, says more than the clock
            self._metrics.upstream_errors("timeout").inc()
        return outcome

    async def _pause(self, attempt: int, wanted: Callable[[], bool]) -> float:
        """Waits for the back-off of a repeat, and while the endpoint asked everybody to wait; how many seconds."""
        clock = asyncio.get_running_loop().time
        began = clock()
        least, most = _BACKOFF_SECONDS
        backoff = min(most, least * 2**attempt) * self._random.uniform(0.5, 1) if attempt else 0.0
        held = self._resume_at + self._random.uniform(0, 0.25) if self._resume_at > clock() else 0.0
        wake = max(clock() + backoff, held)
        while clock() < wake and wanted():  # noqa: ASYNC110 - the clock ends it too
            await asyncio.sleep(min(wake - clock(), 0.5))
        return clock() - began

    def _hold(self, hint: float | None) -> None:
        if hint is not None:
            resume_at = asyncio.get_running_loop().time() + min(hint, _LONGEST_HINT)
            self._resume_at = max(self._resume_at, resume_at)

    async def _attempt(self, path: str, body: bytes) -> _Attempt:
        with self._tracing.span(f"POST {path}", "client") as span:
            span.mark(http__request__method="POST", url__path=path)
            attempt = await self._call(path, body)
            if isinstance(attempt.outcome, Failure):
                span.failed(attempt.outcome.code)
            else:
                span.mark(http__response__status_code=attempt.outcome.status_code)
            return attempt

    async def _call(self, path: str, body: bytes) -> _Attempt:
        url, headers = self._base + path.removeprefix("/v1"), self._tracing.carrier()
        began, status = perf_counter(), "none"
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                status = f"{response.status // 100}xx"
                return self._judged(path, response.status, response.headers, await self._read(response))
        except http.BROKEN as error:
            if http.unreached(error):
                return _Attempt(Failure("connection_error", "The endpoint could not be reached."), repeatable=True)
            broken = Failure("connection_error", "The connection to the endpoint broke before it answered.")
            return _Attempt(broken, repeatable=path not in STATEFUL)
        finally:
            self._metrics.upstream_seconds(path, status).observe(perf_counter() - began)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | None:
        data = bytearray()
        async for piece in response.content.iter_any():
            data += piece
            if len(data) > self._settings.max_response_bytes:
                return None
        return bytes(data)

    def _judged(self, path: str, status: int, headers: Mapping[str, str], data: bytes | None) -> _Attempt:
        if data is None:
            message = f"The answer is larger than {self._settings.max_response_bytes} bytes."
            return _Attempt(Failure("response_too_large", message), repeatable=False)
        body = compact_json(data)
        request_id = answers.request_id(headers) or f"req_{uuid4().hex}"
        if 200 <= status < 300 and body is not None:
            return _Attempt(Answer(status, request_id, body, tokens_in(body)), repeatable=False)
        if status < 400:
            return _Attempt(
                Failure("invalid_response", f"The endpoint's answer ({status}) is not JSON."), repeatable=False
            )
        body = body or error_body(data.decode(errors="replace")[:1000] or f"HTTP status {status}", "upstream_error")
        repeatable = status in (_NOT_BEGUN if path in STATEFUL else _REFUSED) and b'"insufficient_quota"' not in body
        return _Attempt(Answer(status, request_id, body), repeatable, http.retry_after(headers))


@asynccontextmanager
async def open_endpoint(
    settings: LocalSettings, metrics: ServiceMetrics, tracing: Tracing = OFF
) -> AsyncIterator[Endpoint]:
    """An endpoint with its client; the key never leaves the client's headers."""

    key = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    headers = {"content-type": "application/json", **key}
    connections = settings.max_concurrency  # the line's own deadline bounds what comes after the connection
    async with http.bare(headers, connections=connections, connect=10) as session:
        yield Endpoint(session, settings, metrics, tracing, Random())  # noqa: S311 - jitter


def error_kind(outcome: Answer | Failure) -> str:
    """What kind of error an answer is, in one of a few words; empty where it is none."""
    if isinstance(outcome, Failure):
        return outcome.code
    if outcome.status_code < 400:
        return ""
    if outcome.status_code == 429:
        return "rate_limited"
    return "server_error" if outcome.status_code >= 500 else "client_error"


def compact_json(data: bytes) -> bytes | None:
    """The same JSON value, to the digit, without white space; None where it isn't JSON in UTF-8, or too deep."""
    try:
        data.decode()
        return msgspec.json.format(data, indent=-1)
    except (ValueError, RecursionError):
        return None


def error_body(message: str, type_: str, param: str | None = None, code: str | None = None) -> bytes:
    """OpenAI's error envelope."""
    return msgspec.json.encode({"error": {"message": message, "type": type_, "param": param, "code": code}})


class _Body(msgspec.Struct):
    usage: Any = None


def tokens_in(body: bytes) -> Tokens:
    """What a successful answer says that it used."""
    try:
        return tokens_of(msgspec.json.decode(body, type=_Body).usage)
    except (ValueError, RecursionError):
        return NO_TOKENS
