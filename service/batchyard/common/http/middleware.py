"""The outermost layer of an HTTP application: names the request, marks the answer, accounts for it, covers defects."""

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from batchyard.common.http import envelope
from batchyard.common.http.request_log import RequestLog, route_of
from batchyard.common.tracing import Span

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("batchyard.shim")


class ClientLeft(Exception):
    """The client closed the connection before its answer was whole; nobody is left to be answered."""


class RequestMiddleware:
    """Around every request of an ASGI application, which it enters in `request_log`."""

    def __init__(self, app: Application, request_log: RequestLog) -> None:
        self._app = app
        self._request_log = request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            with self._request_log.running(scope) as span:
                await self._run(scope, receive, send, span)

    async def _run(self, scope: Scope, receive: Receive, send: Send, span: Span) -> None:
        began, status, sent, request_id = time.perf_counter(), 0, 0, envelope.request_id(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id

        async def counted() -> Message:
            message = await receive()
            self._request_log.received(scope, len(message.get("body", b"")))
            return message

        async def marked(message: Message) -> None:
            nonlocal status, sent
            begins = message["type"] == "http.response.start"
            if begins:
                closing = [(b"connection", b"close")] if message["status"] == 408 or scope["state"].get("close") else []
                given = list(message.get("headers", ()))
                message = {**message, "headers": [*given, *envelope.marks(request_id, given), *closing]}
            size = len(message.get("body", b""))
            sent += size
            await send(message)
            status = message["status"] if begins else status
            self._request_log.sent(scope, size)

        try:
            await self._app(scope, counted, marked)
        except ClientLeft:
            status = 499
        except Exception:
            log.exception("a defect broke the request", extra={"request_id": request_id})
            if status:
                raise
            await _defect(marked)
        finally:
            status = scope["state"].get("refused", status)  # by the server, while it ran
            method, route, seconds = scope["method"], route_of(scope), time.perf_counter() - began
            self._request_log.enter(
                request_id, status, method=method, route=route, seconds=seconds, sent=sent, span=span
            )


async def _defect(send: Send) -> None:
    body = envelope.body(envelope.error(500, envelope.DEFECT))
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 500, "headers": head})
    await send({"type": "http.response.body", "body": body})
