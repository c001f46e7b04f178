"""What every answer has, whoever gives it: a request id, and the envelope of an error."""

import json
import re
import secrets
from collections.abc import Iterable
from typing import Any

DEFECT = "The server had an error while processing your request."
_MOST_MESSAGE, _MOST_PARAM = 1200, 300  # characters
_CUT = " [...] "

Headers = Iterable[tuple[bytes, bytes]]


def error(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error's members as OpenAI's API has them, with the type that fits the HTTP status.

    Texts are cut in the middle where they quote a caller's long value.
    """
    message, param = _cut(message, _MOST_MESSAGE), param and _cut(param, _MOST_PARAM)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def body(members: dict[str, Any]) -> bytes:
    """An error's body: `{"error": MEMBERS}`."""
    return json.dumps({"error": members}).encode()


def request_id(headers: Headers) -> str:
    """The caller's own id (x-request-id: 1 to 128 letters, digits, `.`, `_`, `-`), else a new one."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if re.fullmatch(rb"[A-Za-z0-9._-]{1,128}", given) else f"req_{secrets.token_hex(16)}"


def marks(name: str, headers: Headers = ()) -> list[tuple[bytes, bytes]]:
    """The headers of every answer to the request `name`, beside another server's id where `headers` pass one on."""
    passed_on = any(header == b"x-request-id" for header, _ in headers)
    own = b"x-batchyard-request-id" if passed_on else b"x-request-id"
    return [(own, name.encode()), (b"x-content-type-options", b"nosniff")]


def _cut(text: str, most: int) -> str:
    half = (most - len(_CUT)) // 2
    return text if len(text) <= most else text[:half] + _CUT + text[-half:]
