"""Runs lines against an OpenAI-compatible endpoint: retries, back-off, and a deadline for each line."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum, auto
from random import Random
from time import perf_counter
from typing import Any, NamedTuple
from uuid import uuid4

import aiohttp
import msgspec

from batchyard.common.tracing import OFF, Tracing
from batchyard.service.config.settings import LocalSettings
from batchyard.service.domain.json_text import NotJSON, compact, parse
from batchyard.service.engine.runners.slots import LineControl, LineSlots
from batchyard.service.jsonl.results import NO_TOKENS, TIMEOUT, Answer, Failure, Tokens, tokens_of
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.upstream import errors, statuses, transport
from batchyard.service.upstream.body import AnswerBody, End
from batchyard.service.upstream.body import read as body_of

STATEFUL = {"/v1/responses"}  # keeps what it made: a call whose answer was lost is not repeated
_NO_WAITING = (b'"insufficient_quota"', b"Request too large")
"""What OpenAI says in a 429 that no waiting helps."""
_BACKOFF_SECONDS = (0.5, 30.0)
_ALONE_SECONDS = (0.5, 60.0)
_MOST_ALONE = 1  # times in a row that a line is refused while others are answered: then it is not the endpoint's state
MOST_ERROR = 8 << 10  # bytes of an error's body that are kept as they are
_MOST_MESSAGE, _MOST_WORD = 1000, 100  # characters of what is left of a longer one
_MOST_ERROR_READ = 4 << 20
_INLINE = 64 << 10  # bytes that are read without a thread


class _Repeat(Enum):
    NO = auto()
    COUNTED = auto()  # it may have begun, and costs one of the line's attempts
    FREE = auto()  # nothing was begun
    ELSEWHERE = auto()  # the connection had been kept, and may have been closed before: a new one will tell


class _Health(Enum):
    """What a call says of the endpoint."""

    ANSWERED = auto()
    LIMITED = auto()
    FAILED = auto()
    UNKNOWN = auto()


class _Attempt(NamedTuple):
    outcome: Answer | Failure
    health: _Health = _Health.ANSWERED
    repeat: _Repeat = _Repeat.NO
    why: str = ""
    hint: float | None = None  # seconds that the endpoint asked us to wait


class Endpoint:
    """An endpoint at `api_base` (which ends in /v1, as the SDKs write it), over one bounded pool of connections.

    Lines of endpoints that keep what they make get a connection each: one that was kept may be closed by the server at
    the moment that a request is sent, and nobody knows then whether it was received (RFC 9110, 9.2.2).
    """

    def __init__(
        self,
        kept: aiohttp.ClientSession,
        fresh: aiohttp.ClientSession,
        settings: LocalSettings,
        metrics: ServiceMetrics,
        tracing: Tracing,
        random: Random,
    ) -> None:
        """`kept` keeps connections, `fresh` makes one for each call."""
        self.slots = LineSlots(settings.max_concurrency, metrics, random)
        self._kept = kept
        self._fresh = fresh
        self._base = (settings.api_base or "").rstrip("/")
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._random = random

    async def run(self, path: str, body: bytes, *, until: float, control: LineControl) -> Answer | Failure | None:
        clock, slots = asyncio.get_running_loop().time, self.slots
        outcome: Answer | Failure = TIMEOUT
        attempts = alone = 0
        fresh = path in STATEFUL
        answered = slots.answers
        while control.go_on():
            sent, began = slots.round, clock()
            try:
                async with asyncio.timeout_at(until):
                    attempt = await self._attempt(path, body, fresh)
            except TimeoutError:  # the last answer, if there was one, says more than the clock
                self._metrics.upstream_errors("timeout").inc()
                return outcome
            outcome, free = attempt.outcome, attempt.repeat is _Repeat.FREE
            alone = alone + 1 if free and slots.answers != answered else 0
            if alone <= _MOST_ALONE:
                self._tell(sent, attempt)
            error = error_kind(outcome)
            if error:
                self._metrics.upstream_errors(error).inc()
            if attempt.repeat is _Repeat.NO:
                return outcome
            attempts += not free
            delay = self._delay(_ALONE_SECONDS, alone) if free else self._backoff(attempt, attempts)
            if not free and self._is_last(attempt, attempts, until - delay):
                return outcome
            fresh = fresh or attempt.repeat is _Repeat.ELSEWHERE
            answered, ended = slots.answers, clock()
            if not await slots.again(control, delay):
                return None
            # What began nothing, and what all lines wait for, is not the line's own time.
            until += clock() - (began if free else ended + delay)
            self._metrics.upstream_retries(error).inc()
        return None

    def _is_last(self, attempt: _Attempt, attempts: int, until: float) -> bool:
        """Whether a line has no more attempts, or no time for one."""
        most = self._settings.max_attempts + (attempt.repeat is _Repeat.ELSEWHERE)
        return attempts >= most or asyncio.get_running_loop().time() >= until

    def _tell(self, sent: int, attempt: _Attempt) -> None:
        """Tells the places how the endpoint does."""
        match attempt.health:
            case _Health.ANSWERED:
                self.slots.answered(sent)
            case _Health.LIMITED:
                self.slots.limited(sent, attempt.why)
            case _Health.FAILED:
                self.slots.failed(sent, attempt.why)
        if attempt.hint is not None and attempt.repeat is not _Repeat.NO:
            self.slots.hold(attempt.hint, attempt.why)

    def _backoff(self, attempt: _Attempt, attempts: int) -> float:
        """Seconds before a line is tried again, beside what all lines wait for."""
        if attempt.health is _Health.FAILED or attempt.repeat is _Repeat.ELSEWHERE:
            return 0.0
        return self._delay(_BACKOFF_SECONDS, attempts)

    def _delay(self, bounds: tuple[float, float], times: int) -> float:
        least, most = bounds
        return min(most, least * 2 ** min(times, 16)) * self._random.uniform(0.5, 1) if times else 0.0

    async def _attempt(self, path: str, body: bytes, fresh: bool) -> _Attempt:
        with self._tracing.span(f"POST {path}", "client") as span:
            span.mark(http__request__method="POST", url__path=path)
            attempt = await self._call(path, body, fresh)
            if isinstance(attempt.outcome, Failure):
                span.failed(attempt.outcome.code)
            else:
                span.mark(http__response__status_code=attempt.outcome.status_code)
            return attempt

    async def _call(self, path: str, body: bytes, fresh: bool) -> _Attempt:
        url, headers = self._base + path.removeprefix("/v1"), self._tracing.carrier()
        session = self._fresh if fresh else self._kept
        began, status = perf_counter(), "none"
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                status = f"{response.status // 100}xx"
                most = self._settings.max_response_bytes if response.status < 400 else _MOST_ERROR_READ
                read = await body_of(response, most)
                return await self._judged(path, response.status, response.headers, read)
        except aiohttp.ClientResponseError as error:  # it came, and is no HTTP that can be read
            return _Attempt(_unreadable(transport.fault(error)))
        except transport.BROKEN as error:
            return _broken(error, path, fresh)
        finally:
            self._metrics.upstream_seconds(path, status).observe(perf_counter() - began)

    async def _judged(self, path: str, status: int, headers: Mapping[str, str], read: AnswerBody) -> _Attempt:
        if status >= 400:
            data = errors.hide(read.data, [self._settings.api_key])
            return _refused(path, Answer(status, _request_id(headers), await _error_kept(data, status)), headers)
        if read.end is End.TOO_LARGE:
            message = f"The answer is larger than {self._settings.max_response_bytes} bytes."
            return _Attempt(Failure("response_too_large", message))
        try:
            body = await _kept_json(read.data)
        except NotJSON as error:
            if read.end is End.BROKEN:
                return _Attempt(_BROKE, _Health.UNKNOWN, _Repeat.NO if path in STATEFUL else _Repeat.COUNTED)
            return _Attempt(_unreadable(f"its body ({status}) is not JSON: {read.fault or error.reason}"))
        if not 200 <= status < 300:
            return _Attempt(_unreadable(f"its status is {status}"))
        tokens = tokens_in(body) if len(body) <= _INLINE else await asyncio.to_thread(tokens_in, body)
        return _Attempt(Answer(status, _request_id(headers), body, tokens))


@asynccontextmanager
async def open_endpoint(
    settings: LocalSettings, metrics: ServiceMetrics, tracing: Tracing = OFF
) -> AsyncIterator[Endpoint]:
    """An endpoint with its client; the key never leaves the client's headers."""

    key = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    headers = {"content-type": "application/json", **key}
    connections = settings.max_concurrency  # the line's own deadline bounds what comes after the connection
    fresh = transport.bare(headers, connections=connections, connect=10, keep=False)
    async with transport.bare(headers, connections=connections, connect=10) as kept, fresh as fresh_session:
        yield Endpoint(kept, fresh_session, settings, metrics, tracing, Random())  # noqa: S311 - jitter


def error_kind(outcome: Answer | Failure) -> str:
    """What kind of error an answer is, in one of a few words; empty where it is none."""
    if isinstance(outcome, Failure):
        return outcome.code
    if outcome.status_code < 400:
        return ""
    if outcome.status_code == 429:
        return "rate_limited"
    return "server_error" if outcome.status_code >= 500 else "client_error"


_BROKE = Failure("connection_error", "The connection to the endpoint broke before it answered.")


def _broken(error: Exception, path: str, fresh: bool) -> _Attempt:
    """A call that brought no answer."""
    if transport.unreached(error):
        outcome = Failure("connection_error", "The endpoint could not be reached.")
        return _Attempt(outcome, _Health.FAILED, _Repeat.FREE, transport.why_unreached(error))
    if not fresh and transport.is_silent(error):
        return _Attempt(_BROKE, _Health.UNKNOWN, _Repeat.ELSEWHERE)
    repeat = _Repeat.NO if path in STATEFUL else _Repeat.COUNTED
    return _Attempt(_BROKE, _Health.FAILED, repeat, "it closes connections without an answer")


def _refused(path: str, outcome: Answer, headers: Mapping[str, str]) -> _Attempt:
    """What an answer of 400 and above means."""
    status = outcome.status_code
    why = f"it answers with HTTP status {status}"
    health, repeat = _Health.ANSWERED, _Repeat.NO
    told = headers.get("x-should-retry")
    if status == 429 and not any(word in outcome.body for word in _NO_WAITING):
        health, repeat = _Health.LIMITED, _Repeat.FREE
    elif status in statuses.AWAY:
        health, repeat = _Health.FAILED, _Repeat.FREE
    elif status in statuses.PASSING and status != 429:
        health = _Health.FAILED if status in statuses.BEHIND else health
        repeat = _Repeat.NO if path in STATEFUL and status in statuses.UNSURE else _Repeat.COUNTED
    if told == "false":
        repeat = _Repeat.NO
    elif told == "true" and repeat is _Repeat.NO:
        repeat = _Repeat.COUNTED
    return _Attempt(outcome, health, repeat, why, transport.retry_after(headers))


def _request_id(headers: Mapping[str, str]) -> str:
    return errors.request_id(headers) or f"req_{uuid4().hex}"


def _unreadable(reason: str) -> Failure:
    return Failure("invalid_response", f"The endpoint's answer can't be used: {reason}.")


async def _kept_json(data: bytes) -> bytes:
    """The same JSON value, to the digit, in one line. Raises NotJSON."""
    try:
        if not data.isascii():
            data.decode()
        return msgspec.json.format(data, indent=-1)
    except (ValueError, RecursionError):
        return await asyncio.to_thread(compact, data)


async def _error_kept(data: bytes, status: int) -> bytes:
    """The body of an error in one line: as it is where it is short, else what matters of it, cut."""
    if len(data) <= _INLINE:
        return _cut_error(data, status)
    return await asyncio.to_thread(_cut_error, data, status)


def _cut_error(data: bytes, status: int) -> bytes:
    try:
        body = compact(data)
    except NotJSON:
        text = data.decode(errors="replace")[:_MOST_MESSAGE]
        return error_body(text or f"HTTP status {status}", "upstream_error")
    if len(body) <= MOST_ERROR:
        return body
    whole = parse(body)
    error = whole.get("error", whole) if isinstance(whole, dict) else None
    told = error if isinstance(error, dict) else {"message": error if isinstance(error, str) else body.decode()}
    message = told.get("message")
    message = message if isinstance(message, str) else body.decode()
    words = (_word(told.get(name)) for name in ("type", "param", "code"))
    text = f"{message[:_MOST_MESSAGE]} (cut: it had {len(message)} characters)"
    return error_body(_encodable(text), *words)


def _word(value: object) -> str | None:
    return _encodable(value[:_MOST_WORD]) if isinstance(value, str) else None


def _encodable(text: str) -> str:
    """A text without halves of surrogate pairs, which JSON may have and UTF-8 has not."""
    return text.encode(errors="replace").decode()


def error_body(message: str, type_: str | None, param: str | None = None, code: str | None = None) -> bytes:
    """OpenAI's error envelope."""
    return msgspec.json.encode({"error": {"message": message, "type": type_, "param": param, "code": code}})


class _AnsweredUsage(msgspec.Struct):
    usage: Any = None


def tokens_in(body: bytes) -> Tokens:
    """What a successful answer says that it used."""
    try:
        return tokens_of(msgspec.json.decode(body, type=_AnsweredUsage).usage)
    except (ValueError, RecursionError):
        pass
    try:
        whole = parse(body)
    except NotJSON:
        return NO_TOKENS
    return tokens_of(whole.get("usage")) if isinstance(whole, dict) else NO_TOKENS
