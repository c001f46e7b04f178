"""Answers of the HTTP server's own, in OpenAI's envelope."""

from dataclasses import dataclass
from typing import Any

from batchyard.common.http import envelope
from batchyard.common.http.request_log import RequestLog
from batchyard.common.http.response import Response


@dataclass(frozen=True)
class Refusal:
    """An answer of the server's own, after which the connection closes; it is entered in the request log."""

    status: int
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def answer(self, request_log: RequestLog, scope: Any, receive: Any, send: Any) -> None:
        """With the request log bound, an ASGI application."""
        name = envelope.request_id(scope["headers"])
        start, body = self.messages(name)
        await send(start)
        await send(body)
        request_log.refuse(name, self.status, len(body["body"]), method=scope["method"])

    def written(self, method: str, name: str) -> tuple[list[bytes], int]:
        """The whole answer to the request `name`, as it goes on the wire, and how many bytes its body has."""
        start, body = self.messages(name)
        response = Response(method, "1.1", keep_alive=False)
        pieces = [response.head(start), *response.body(body)]
        return pieces, sum(map(len, pieces[1:]))

    def messages(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answer to the request `name`, as an ASGI application sends it: its start and its body."""
        body = envelope.body(envelope.error(self.status, self.message))
        fixed = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers = [*fixed, (b"connection", b"close"), *envelope.marks(name), *self.headers]
        return (
            {"type": "http.response.start", "status": self.status, "headers": headers},
            {"type": "http.response.body", "body": body},
        )
