"""Around every call: its log line, its request id, its bound in time, and the border from our errors to gRPC's."""

import asyncio
import dataclasses
import json
import logging
import re
from collections.abc import Awaitable, Callable
from functools import cache
from itertools import accumulate, takewhile
from operator import attrgetter
from time import perf_counter
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode, aio

from batchyard.common.calls import DETAILS
from batchyard.common.tracing import OFF, Span, Tracing
from batchyard.service.access.caller import current_caller, metadata_value
from batchyard.service.api.authentication import PUBLIC_SERVICES, Continuation, Handler, MaybeHandler
from batchyard.service.api.message_reader import (
    MESSAGE_SECONDS,
    Context,
    Messages,
    PublicCalls,
    perform,
    read_here,
    streams,
)
from batchyard.service.audit.auditor import Auditor, Entry, printable_id
from batchyard.service.config.settings import Limits
from batchyard.service.errors import BatchyardError, Busy, Defect, Late, Refused, Unavailable
from batchyard.service.metrics import ServiceMetrics, method_label
from batchyard.v1 import ApiError, UpstreamError

DOMAIN = "batchyard"
_CUT = " [...] "
# Bytes; a message travels three times, and gRPC drops more than 7.5 KB.
_MOST_MESSAGE, _MOST_PARAM, _MOST_JSON = 1200, 300, 1000
_MOST_DETAILS = 3200  # beside the status' own message, before it is written in base64
# What a log line names of requests and answers, and how it calls that; `key` is already the caller's own.
_LOGGED = {
    "input_file_id": "file",
    "file_id": "file",
    "file.id": "file",
    "batch_id": "batch",
    "batch.id": "batch",
    "key_id": "named_key",
    "key.id": "named_key",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_HEARD_SECONDS = 0.1
_STOPPING = "The service is stopping. Try again in a moment."

_log = logging.getLogger("batchyard.service")


class _Call:
    """One call, from its first byte to its log line and its place in the figures."""

    def __init__(
        self,
        details: grpc.HandlerCallDetails,
        seconds: float | None,
        metrics: ServiceMetrics,
        tracing: Tracing,
        entry: Entry | None,
    ) -> None:
        """`entry` is its record in the audit log, if it gets one."""
        self.method = details.method.rpartition("/")[2]
        given = metadata_value(details, "x-request-id") or ""
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid4().hex}"
        self._seconds = seconds
        self._metrics = metrics
        self._tracing = tracing
        self._entry = entry
        self._metadata = details.invocation_metadata or ()
        self._label = method_label(details.method)
        self._logged: dict[str, str] = {}
        self._started = perf_counter()

    def saw(self, message: object) -> None:
        """Notes what a request or an answer names, for the log line and the audit log."""
        if isinstance(message, Message):
            for name, read in _ids_of(message.DESCRIPTOR):
                if value := read(message):
                    self._logged[name] = printable_id(value)
        if self._entry:
            self._entry.saw(message)

    async def run(self, behaviour: Callable[[], Awaitable[Any]], context: Context) -> Any:
        """What `behaviour` returns; what it raises ends the call with the status that fits."""
        with self._tracing.span(self._label, "server", self._metadata) as span:
            return await self._run(behaviour, context, span)

    async def _run(self, behaviour: Callable[[], Awaitable[Any]], context: Context, span: Span) -> Any:
        context.set_trailing_metadata((("x-request-id", self.request_id),))
        code, reason = StatusCode.OK, ""
        running = self._metrics.rpcs_running(self._label)
        running.inc()
        try:
            async with asyncio.timeout(self._seconds) as bound:
                answer = await behaviour()
            self.saw(answer)
            return answer
        except aio.AbortError:
            code = context.code()
            raise
        except asyncio.CancelledError:
            code = StatusCode.CANCELLED
            raise
        except aio.InternalError:  # a message could not be sent: the caller has left, and gRPC is about to say so
            code = StatusCode.CANCELLED
            raise asyncio.CancelledError from None
        except Exception as error:
            known = self._known(error, late=bound.expired())
            code, reason = known.status, known.reason
            if self._entry:
                self._entry.failed(known)
            await self._abort(context, known)
        finally:
            running.dec()
            self._report(code, reason, context, span)

    def _known(self, error: Exception, *, late: bool) -> BatchyardError:
        if isinstance(error, BatchyardError):
            if error.__cause__:  # ours, whatever its name: the caller is told that it failed, the log why
                self._log_failure(error)
            return error
        if late:
            return Late(f"The call took more than {self._seconds} seconds.")
        self._log_failure(error)
        return Defect()

    def _log_failure(self, error: Exception) -> None:
        name = "failure" if isinstance(error, BatchyardError) else "defect"
        _log.error(name, extra={"method": self.method, "request_id": self.request_id}, exc_info=error)

    async def _abort(self, context: Context, error: BatchyardError) -> None:
        status = _details(error)
        trailer = (("x-request-id", self.request_id), (DETAILS, status.SerializeToString()))
        await context.abort(error.status, status.message, trailing_metadata=trailer)

    def _report(self, code: StatusCode, reason: str, context: Context, span: Span) -> None:
        seconds = perf_counter() - self._started
        if self._entry:
            known = {"method": self._label, "request_id": self.request_id, "peer": context.peer()}
            self._entry.write(**known, code=code.name, reason=reason, seconds=seconds)
        self._metrics.rpc_seconds(self._label, code.name).observe(seconds)
        ours = code in {StatusCode.INTERNAL, StatusCode.DATA_LOSS, StatusCode.UNKNOWN}
        span.mark(rpc__system="grpc", rpc__method=self._label)
        span.mark(rpc__grpc__status_code=int(code.value[0]), batchyard__request_id=self.request_id)
        if ours:
            span.failed(code.name)
        caller = current_caller.get(None)
        fields = {
            "method": self.method,
            "code": code.name,
            "duration_ms": round(seconds * 1000, 1),
            "request_id": self.request_id,
            "tenant": caller.tenant if caller else None,
            "key": caller.key.id if caller and caller.key else None,
            **self._logged,
        }
        _log.log(logging.ERROR if ours else logging.INFO, "call", extra=fields)


@cache
def _ids_of(kind: Descriptor) -> tuple[tuple[str, Callable[[Message], str]], ...]:
    """How to read the ids that messages of this kind name, each with what the log calls it."""
    fields = kind.fields_by_name
    return tuple(
        (name, attrgetter(path))
        for path, name in _LOGGED.items()
        if (first := path.partition(".")[0]) in fields and ("." in path) == bool(fields[first].message_type)
    )


class CallInterceptor(aio.ServerInterceptor):
    """The outermost interceptor. `unary_seconds` bounds calls that carry no stream, `message_seconds` how long their
    message may take to come.

    Streams may last: they get three quarters of the places, so that other calls and health checks have the rest; and
    the tenant of a key a quarter of these.
    """

    def __init__(
        self,
        unary_seconds: float,
        limits: Limits,
        metrics: ServiceMetrics,
        tracing: Tracing = OFF,
        auditor: Auditor | None = None,
        message_seconds: float = MESSAGE_SECONDS,
    ) -> None:
        self._unary_seconds = unary_seconds
        self._message_seconds = message_seconds
        self._most_streams = max(1, limits.max_concurrent_calls * 3 // 4)
        self._most_of_tenant = max(4, self._most_streams // 4)
        self._streams: dict[asyncio.Task[Any], str | None] = {}
        self._public = PublicCalls(limits.max_concurrent_calls, message_seconds)
        self._metrics = metrics
        self._tracing = tracing
        self._auditor = auditor
        self._running: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def drain(self, seconds: float) -> None:
        """Refuses new calls with UNAVAILABLE, and returns when those that run have ended, or after `seconds`.

        gRPC's own stop answers CANCELLED to calls that it hasn't handed out yet, which nobody would try again: callers
        get the time to hear it from us.
        """
        self._stopping = True
        heard = asyncio.create_task(asyncio.sleep(min(_HEARD_SECONDS, seconds)))
        await asyncio.wait({heard, *self._running}, timeout=seconds)

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> MaybeHandler:
        """Errors that interceptors behind this one raise refuse the call, and nothing of its request is read."""
        if details.method.startswith(PUBLIC_SERVICES):
            return self._public.bounded(await continuation(details))
        entry = None
        try:
            if self._stopping:
                raise Unavailable(_STOPPING)
            handler = await continuation(details)
            if handler and streams(handler):
                self._take_stream()
        except BatchyardError as error:
            handler = _refusing(error)
        if handler is None:
            return None
        try:
            entry = await self._auditor.entry(details) if self._auditor else None
        except Unavailable as error:
            handler = _refusing(error)
        if not self._stopping and (task := asyncio.current_task()):
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        seconds = None if streams(handler) else self._unary_seconds
        call = _Call(details, seconds, self._metrics, self._tracing, entry)

        async def run(messages: Messages, context: Context) -> Any:
            return await call.run(lambda: perform(handler, messages, context, call.saw), context)

        return read_here(handler, run, self._message_seconds)

    def _take_stream(self) -> None:
        """Keeps a place for this call. Raises Busy where there is none, or none for the tenant of a key."""
        if len(self._streams) >= self._most_streams:
            raise Busy(f"More than {self._most_streams} streams are open. Try again soon.")
        caller = current_caller.get(None)
        tenant = caller.tenant if caller and caller.key else None
        if tenant and list(self._streams.values()).count(tenant) >= self._most_of_tenant:
            raise Busy(f"Tenant '{tenant}' has {self._most_of_tenant} streams open, as many as it may. Try again soon.")
        if task := asyncio.current_task():
            self._streams[task] = tenant
            task.add_done_callback(self._streams.pop)


def _refusing(error: BatchyardError) -> Handler:
    """A handler for any kind of call that raises `error`, and never reads the request."""

    async def refuse(_: object, __: object) -> None:
        raise error

    return grpc.stream_stream_rpc_method_handler(refuse)


def _details(error: BatchyardError) -> status_pb2.Status:
    """The status of an error: ErrorInfo (its reason) and ApiError (OpenAI's wording), RetryInfo where it may pass."""
    message = _cut(error.message, _MOST_MESSAGE)
    api = ApiError(message=message, type=_cut(error.type, _MOST_PARAM), code_json=_small(error.code, "null"))
    if error.param is not None:
        api.param = _cut(error.param, _MOST_PARAM)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN), api]
    if isinstance(error, Refused):
        api.extra_json = _small(error.extra, "") if error.extra else b""
        upstream = UpstreamError(**dataclasses.asdict(error.upstream))
        details.append(upstream)
        _shed(api, upstream)
    if isinstance(error, Busy):
        delay = duration_pb2.Duration(seconds=int(error.retry_after))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=error.status.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _shed(api: ApiError, upstream: UpstreamError) -> None:
    """Leaves out what callers miss least, until both fit: members that we don't know, then headers, longest first."""
    while api.ByteSize() + upstream.ByteSize() > _MOST_DETAILS:
        if api.extra_json:
            api.extra_json = b""
        elif upstream.headers:
            del upstream.headers[max(upstream.headers, key=lambda name: len(name) + len(upstream.headers[name]))]
        else:
            return


def _small(value: Any, otherwise: str) -> bytes:
    """JSON, or what stands for it where it is too long to travel."""
    try:
        written = json.dumps(value)
    except (ValueError, RecursionError):
        return otherwise.encode()
    return (written if len(written) <= _MOST_JSON else otherwise).encode()


def _cut(text: str, most: int) -> str:
    """What fits `most` bytes on the wire; cut in the middle of a text that quotes a caller's long value."""
    if len(text) <= most and _wire_size(text) <= most:
        return text
    room = (most - len(_CUT)) // 2
    return _head(text[:room], room) + _CUT + _head(text[: -room - 1 : -1], room)[::-1]


def _head(text: str, room: int) -> str:
    """The longest beginning of at most `room` bytes on the wire."""
    fitting = takewhile(lambda size: size <= room, accumulate(map(_wire_size, text)))
    return text[: sum(1 for _ in fitting)]


def _wire_size(text: str) -> int:
    """Bytes of a text in the header that carries it, in which all but printable ASCII is percent-encoded."""
    return sum(1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode()) for character in text)
