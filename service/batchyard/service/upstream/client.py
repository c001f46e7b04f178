"""One deployment as the provider modules call it: its HTTP calls, what repeats them, and what becomes of errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from math import ceil
from random import Random
from time import perf_counter
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from grpc import StatusCode

from batchyard.common.tracing import Tracing
from batchyard.service.config.settings import Deployment, UpstreamSettings
from batchyard.service.errors import BatchyardError, DataLoss, Late, Refused, Unsure, Unusable
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.upstream import errors, statuses, transport
from batchyard.service.upstream.body import Unpackable, codings_of, unpacked
from batchyard.service.upstream.health import Condition
from batchyard.service.upstream.provider_json import decode

LOST = statuses.UNSURE
"""Answers by which a change may have happened all the same."""
_PASSING = statuses.PASSING
_LIMITED = 429
ANSWERED = 200
"""The status of an error that came as none: of an answer that can't be read, or is about something else."""
_BACKOFF_SECONDS = 0.25
_LONGEST_HINT = 5.0  # seconds; who is asked to wait longer is told so
_MOST_JSON = 16 << 20
_ERROR_SECONDS = 2.0
_MOST_WHOLE = 64 << 10  # bytes of an error that are parsed at each piece, to see whether it has ended
_PROBE_SECONDS = 10.0
_UNREACHED = "The provider could not be reached."
_BROKE = "The connection to the provider broke before it answered."
_NO_OBJECT = "The provider's answer is not a JSON object."
_NOT_THERE = "There is no Batches API at the deployment's base URL."
_LEFT_ALONE = "PROVIDER_LEFT_ALONE"

R = TypeVar("R")


class Access(Protocol):
    """How a deployment is reached: its base URL, what every call's query has, and the headers that show its key.

    `error_code` is its word for an error, in OpenAI's words.
    """

    base: str
    params: Mapping[str, str]

    async def headers(self) -> Mapping[str, str]: ...

    def error_code(self, code: Any) -> Any: ...


class UpstreamClient:
    """Calls of one deployment, by which its `condition` is known.

    Paths are relative to its base; `operation` names a call in metrics and traces.

    An answer that is an error raises Refused, and so does a deployment that can't be reached or is left alone for a
    while. A read that got no answer raises Refused too, a change Unsure.
    """

    def __init__(
        self,
        client: transport.Client,
        deployment: Deployment,
        access: Access,
        condition: Condition,
        settings: UpstreamSettings,
        metrics: ServiceMetrics,
        tracing: Tracing,
    ) -> None:
        self.deployment = deployment
        self.condition = condition
        self._client = client
        self._access = access
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._random = Random()  # noqa: S311 - jitter

    def misled(self, message: str) -> Refused:
        """The error of an answer that is none to what was asked; nothing of it is to be believed."""
        return errors.silence(self.deployment, message, status=ANSWERED)

    async def read(self, operation: str, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object at a path, tried again where that may help."""
        async with self._bounded():
            return await self._repeated(operation, "GET", path, params)

    async def read_once(self, operation: str, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        """Like `read`, one time. Raises Unsure too, where no answer came."""
        async with self._bounded(), self._open(operation, "GET", path, params=params) as response:
            return await self._json(response)

    async def probe(self, operation: str, path: str, params: Mapping[str, str]) -> None:
        """Reads a JSON object, one time and not for long; what comes of it shows in `condition` alone."""
        try:
            bounded = self._bounded(min(self._settings.call_seconds, _PROBE_SECONDS))
            async with bounded, self._open(operation, "GET", path, params=params) as response:
                await self._json(response)
        except Unsure:
            pass
        except Refused as error:
            if error.upstream.http_status == 404:  # an answer, though not of what should be there
                self.condition.failed(_NOT_THERE)
        self.condition.probed()

    async def remove(self, operation: str, path: str) -> dict[str, Any]:
        """Deletes what is at a path; what is gone already is fine, so that it may be tried again."""
        try:
            async with self._bounded():
                return await self._repeated(operation, "DELETE", path, None)
        except Refused as error:
            if error.upstream.http_status not in {404, 410}:
                raise
            return {}

    async def again(self, operation: str, path: str) -> dict[str, Any]:
        """POSTs to a path what does no harm when it comes twice."""
        async with self._bounded():
            return await self._repeated(operation, "POST", path, None)

    async def once(self, operation: str, path: str, members: Mapping[str, Any]) -> dict[str, Any]:
        """POSTs a JSON object, one time.

        Raises Unsure, or Refused with a status of `LOST`: it may have worked; Unusable: it has.
        """
        answered = False
        headers, content = {"content-type": "application/json"}, msgspec.json.encode(members)
        try:
            async with (
                self._bounded(changes=True),
                self._open(operation, "POST", path, content=content, headers=headers) as response,
            ):
                answered = True
                return await self._json(response)
        except Unsure as error:  # the answer's head said that it worked, whatever became of its body
            raise Unusable(error.message) if answered else error from None

    async def send(
        self, operation: str, path: str, content: AsyncIterator[bytes], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """POSTs a body as it comes, one time, however long that takes; its author bounds the wait for each piece."""
        async with self._open(operation, "POST", path, content=content, headers=headers) as response:
            return await self._json(response)

    def late(self, message: str) -> Late:
        """The error of a body that its author stopped waiting for."""
        self.condition.failed(message)
        return Late(message)

    @asynccontextmanager
    async def download(self, operation: str, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, its body unread; tried again until its head is there."""
        headers = {"accept-encoding": "identity", **headers}
        async with AsyncExitStack() as stack:
            async with self._bounded():
                response = await self._tried(
                    lambda: stack.enter_async_context(self._open(operation, "GET", path, headers=headers))
                )
            yield response

    async def pieces(self, response: httpx.Response, most: Callable[[], int]) -> AsyncIterator[bytes]:
        """The rest of a body, unpacked, in pieces of at most what `most` says; but for the last, at least half of it.

        Raises DataLoss where it breaks off, Late where nothing comes.
        """
        held, size = list[bytes](), 0
        try:
            async for piece in unpacked(response.aiter_raw(), codings_of(response.headers)):
                held.append(piece)
                size += len(piece)
                if size >= most() // 2:
                    whole, held, size = b"".join(held), [], 0
                    for part in _cut(whole, most()):
                        yield part
        except httpx.TimeoutException as error:
            raise Late(f"The provider sent nothing for {self._settings.idle_seconds:g} seconds.") from error
        except transport.BROKEN as error:
            raise DataLoss("The provider's answer broke off.") from error
        except Unpackable as error:
            raise DataLoss("The provider sent the file packed in a way that can't be read.") from error
        if held:
            yield b"".join(held)

    async def _repeated(
        self, operation: str, method: str, path: str, params: Mapping[str, str] | None
    ) -> dict[str, Any]:
        async def call() -> dict[str, Any]:
            async with self._open(operation, method, path, params=params) as response:
                return await self._json(response)

        return await self._tried(call)

    async def _tried(self, call: Callable[[], Awaitable[R]]) -> R:
        """What a call comes to that may be made again and again."""
        for attempt in range(self._settings.max_attempts):
            try:
                return await call()
            except Unsure as error:
                last: BatchyardError = self._silent(error)
            except Refused as error:
                last = error
            if not await self._pause(last, attempt):
                raise last
            self._metrics.upstream_retries(_kind(last)).inc()
        raise last

    async def _pause(self, error: BatchyardError, attempt: int) -> bool:
        """Waits before another try; False where none can help."""
        upstream = error.upstream if isinstance(error, Refused) else None
        hint = transport.retry_after(upstream.headers) if upstream else None
        final = upstream and upstream.http_status >= 400 and upstream.http_status not in _PASSING
        useless = error.reason == _LEFT_ALONE or error.code == "insufficient_quota"
        last = attempt + 1 >= self._settings.max_attempts
        if final or useless or last or (hint or 0) > _LONGEST_HINT:
            return False
        await asyncio.sleep(max(hint or 0.0, _BACKOFF_SECONDS * 2**attempt * self._random.uniform(0.5, 1)))
        return True

    @asynccontextmanager
    async def _bounded(self, seconds: float | None = None, *, changes: bool = False) -> AsyncIterator[None]:
        seconds = seconds or self._settings.call_seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            message = f"The provider did not answer in {seconds:g} seconds."
            self.condition.failed(message)
            if changes:
                raise Unsure(message) from None
            raise errors.silence(self.deployment, message, StatusCode.DEADLINE_EXCEEDED) from None

    @asynccontextmanager
    async def _open(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """An answer that is no error, its body unread."""
        if wait := self.condition.wait():
            self._refuse(wait)
        asked = {**self._access.params, **(params or {})}
        shown = await self._shown()
        whole = {**shown, **(headers or {}), **self._tracing.carrier()}
        url = self._access.base + path
        with self._tracing.span(f"{method} {operation}", "client") as span, self._timed(operation) as told:
            began = perf_counter()
            body = transport.Outgoing(content) if isinstance(content, AsyncIterator) else content
            with self._judged():
                response = await self._client.send(method, url, params=asked, content=body, headers=whole)
            streamed = isinstance(body, transport.Outgoing)
            self.condition.answered(response.status_code, None if streamed else perf_counter() - began)
            if response.status_code == _LIMITED:
                self.condition.limited(transport.retry_after(response.headers))
            told(f"{response.status_code // 100}xx")
            span.mark(http__request__method=method, http__response__status_code=response.status_code)
            try:
                if not response.is_success:
                    if isinstance(body, transport.Outgoing):
                        body.halt()
                    raise await self._refusal(response, shown)
                yield response
            finally:
                await response.aclose()

    async def _shown(self) -> Mapping[str, str]:
        """The headers that show our credentials. Raises Refused where there are none to be had."""
        try:
            return await self._access.headers()
        except Refused:
            self.condition.locked_out()
            raise

    @contextmanager
    def _timed(self, operation: str) -> Any:
        began, status = perf_counter(), "none"

        def told(found: str) -> None:
            nonlocal status
            status = found

        try:
            yield told
        except (Refused, Unsure) as error:
            self._metrics.upstream_errors(_kind(error)).inc()
            raise
        finally:
            self._metrics.upstream_seconds(operation, status).observe(perf_counter() - began)

    @contextmanager
    def _judged(self) -> Any:
        """What a call that brought no answer comes to, for the caller and for the condition."""
        try:
            yield
        except transport.BROKEN as error:
            unreached = transport.unreached(error)
            message = _UNREACHED if unreached else _BROKE
            self.condition.failed(message)
            raise (errors.silence(self.deployment, message) if unreached else Unsure(message)) from None

    async def _refusal(self, response: httpx.Response, shown: Mapping[str, str]) -> Refused:
        body = b""
        with self._judged():
            body = await _read_error(response)
        error = errors.refusal(self.deployment, response, body, shown)
        error.code = self._access.error_code(error.code)
        return error

    async def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            with self._judged():
                body = await _read(response)
            found = decode(body) if body else {}
        except (ValueError, Unpackable):
            found = None
        if not isinstance(found, dict):
            self.condition.failed(_NO_OBJECT)
            raise Unusable(_NO_OBJECT)
        return found

    def _refuse(self, wait: float) -> None:
        """Raises the error of a deployment that is left alone."""
        name, seconds = self.deployment.name, max(1, ceil(wait))
        message = f"The deployment '{name}' failed repeatedly; it is tried again in {seconds} s."
        headers = {"retry-after": str(seconds)}
        raise errors.silence(self.deployment, message, headers=headers, reason=_LEFT_ALONE)

    def _silent(self, error: Unsure) -> Refused:
        return errors.silence(self.deployment, error.message, status=ANSWERED if isinstance(error, Unusable) else 0)


def segment(native_id: str) -> str:
    """A provider's id as one segment of a path."""
    return quote(native_id, safe="")


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


async def _read(response: httpx.Response) -> bytes:
    """The whole body, unpacked. Raises Unpackable."""
    data = bytearray()
    async for piece in unpacked(response.aiter_raw(), codings_of(response.headers)):
        data += piece
        _check_size(data)
    return bytes(data)


async def _read_error(response: httpx.Response) -> bytes:
    """What comes soon of an error's body: its head has said what matters, and its end may never come."""
    data, endless = bytearray(), "content-length" not in response.headers
    with suppress(*transport.BROKEN, Unpackable):
        async with asyncio.timeout(_ERROR_SECONDS):
            async for piece in unpacked(response.aiter_raw(), codings_of(response.headers)):
                data += piece
                if len(data) > _MOST_JSON or (endless and len(data) <= _MOST_WHOLE and errors.is_whole(data)):
                    break
    _check_size(data)
    return bytes(data)


def _check_size(data: bytearray) -> None:
    if len(data) > _MOST_JSON:
        raise httpx.ReadError(f"the answer is larger than {_MOST_JSON} bytes")


def _kind(error: BatchyardError) -> str:
    if not isinstance(error, Refused) or error.upstream.http_status < 400:
        return "connection_error"
    status = error.upstream.http_status
    return "rate_limited" if status == 429 else "server_error" if status >= 500 else "client_error"
