"""Keeps web pages from a front door that takes callers without a key."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from batchyard.common.http.middleware import Application, Receive, Scope, Send
from batchyard.common.http.refusal import Refusal
from batchyard.common.http.request_log import RequestLog

_CROSS = Refusal(403, "Without a key this server takes no requests of web pages.")
_ELSEWHERE = Refusal(403, "Without a key this server is called by the name of this machine: localhost or its address.")


class NoPages:
    """Around an ASGI application that listens on `host`, which is loopback.

    A browser sends requests for any page, with an Origin, and to this machine under any name that a page's own server
    gives it (an address can't be given away like that): what must be refused where nothing else shows that a caller is
    a good one.
    """

    def __init__(self, app: Application, host: str, request_log: RequestLog) -> None:
        self._app = app
        self._names = {"localhost", host.lower()}
        self._request_log = request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(dict(scope["headers"])) if scope["type"] == "http" else None
        if refusal:
            await refusal.answer(self._request_log, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, headers: dict[bytes, bytes]) -> Refusal | None:
        if b"origin" in headers or headers.get(b"sec-fetch-site", b"none") not in {b"none", b"same-origin"}:
            return _CROSS
        return None if self._is_ours(headers.get(b"host", b"localhost").decode("latin-1")) else _ELSEWHERE

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ip_address(name))
        except ValueError:
            return False
