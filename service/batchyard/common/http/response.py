"""An HTTP/1.1 answer as it is written (RFC 9112): its head, and its body in the framing that the client understands."""

import re
import time
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = bytes({*range(32), 127} - {9})
_LENGTH = re.compile(rb"[0-9]{1,18}")
_BODILESS = frozenset({204, 304})


class MalformedResponse(RuntimeError):
    """What the application sends is no answer; the text says why."""


class Response:
    """The answer to one request: what an ASGI application sends becomes bytes.

    `keep_alive` is whether the connection may go on after it, `complete` whether the application has sent its end.
    """

    def __init__(self, method: str, version: str, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.complete = False
        self._method = method
        self._version = version
        self._bodiless = self._chunked = False
        self._left: int | None = None

    def head(self, message: Mapping[str, Any]) -> bytes:
        """The bytes of a `http.response.start`. Raises MalformedResponse."""
        status = message["status"]
        if not 200 <= status <= 599:
            raise MalformedResponse(f"{status} is no status of an answer")
        lines = [_status_line(status), _date(int(time.time()))]
        lines += self._fields(status, message.get("headers", ()))
        self._bodiless = status in _BODILESS or self._method == "HEAD"
        if self._left is None and not self._bodiless:
            if self._version == "1.0":
                self.keep_alive = False  # the end of the body is the end of the connection
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self._version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        whole = b"".join(lines)
        if len(whole) - len(whole.translate(None, _CONTROLS)) != len(lines) * len(b"\r\n"):
            raise MalformedResponse("a header has a control character")
        return whole + b"\r\n"

    def body(self, message: Mapping[str, Any]) -> list[bytes]:
        """The bytes of a `http.response.body`, in pieces. Raises MalformedResponse where its length is wrong."""
        data, complete = message.get("body", b""), not message.get("more_body", False)
        if self._bodiless:
            self.complete = complete
            return []
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0 or (complete and self._left):
                raise MalformedResponse("the body is not as long as its content-length says")
        self.complete = complete
        if not self._chunked:
            return [data] if data else []
        end = b"0\r\n\r\n" if complete else b""
        if not data:
            return [end] if end else []
        return [b"%x\r\n" % len(data), data, b"\r\n" + end]

    def _fields(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """The header lines, but for those of the framing, which are the server's own."""
        lines = []
        for given, value in headers:
            name = _field_name(given)
            if name == b"content-length":
                if not _LENGTH.fullmatch(value):
                    raise MalformedResponse("the content-length is no number")
                if status == 204:  # RFC 9110, 8.6
                    continue
                self._left = int(value)
            elif name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            elif name == b"transfer-encoding":
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        return lines


@lru_cache(600)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


@lru_cache(1)
def _date(second: int) -> bytes:
    return f"date: {formatdate(second, usegmt=True)}\r\n".encode()


@lru_cache(1000)
def _field_name(name: bytes) -> bytes:
    if not _NAME.fullmatch(name):
        raise MalformedResponse("a header's name is no token")
    return name.lower()
