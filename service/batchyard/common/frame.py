"""The outermost layer of an HTTP application: names the request, marks the answer, writes the log, covers defects."""

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from batchyard.common import envelope

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("batchyard.shim")


class ClientLeft(Exception):
    """The client closed the connection before its answer was whole; nobody is left to be answered."""


class Frame:
    """Around every request of an ASGI application."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status, sent, request_id = time.perf_counter(), 0, 0, envelope.request_id(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id

        async def marked(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                closing = [(b"connection", b"close")] if status == 408 or scope["state"].get("close") else []
                message = {**message, "headers": [*message.get("headers", ()), *envelope.marks(request_id), *closing]}
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, marked)
        except ClientLeft:
            status = 499
        except Exception:
            log.exception("a defect broke the request", extra={"request_id": request_id})
            if status:
                raise
            await _defect(marked)
        finally:
            path, seconds = getattr(scope.get("route"), "path", "-"), time.perf_counter() - began
            envelope.write_log(request_id, status, method=scope["method"], route=path, seconds=seconds, sent=sent)


async def _defect(send: Send) -> None:
    body = envelope.body(envelope.error(500, envelope.DEFECT))
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 500, "headers": head})
    await send({"type": "http.response.body", "body": body})
