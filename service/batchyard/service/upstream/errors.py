"""A provider's HTTP errors as ours: the first of the three borders at which errors change type (`errors.py`)."""

from collections.abc import Iterable, Mapping

import httpx
import msgspec
from grpc import StatusCode

from batchyard.service.config.settings import Deployment
from batchyard.service.errors import INVALID_REQUEST, SERVER_ERROR, Refused, Upstream
from batchyard.service.upstream import transport
from batchyard.service.upstream.errors_text import read_error

BY_HTTP: Mapping[int, StatusCode] = {
    **dict.fromkeys((400, 413, 415, 422), StatusCode.INVALID_ARGUMENT),
    **dict.fromkeys((404, 410), StatusCode.NOT_FOUND),
    **dict.fromkeys((408, 504), StatusCode.DEADLINE_EXCEEDED),
    **dict.fromkeys((502, 503, 529), StatusCode.UNAVAILABLE),
    416: StatusCode.OUT_OF_RANGE,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    501: StatusCode.UNIMPLEMENTED,
}
OF_OURS = "The provider refused the credentials of this service; its operators have to set them right."
"""What is said of our key, or of our identity, whoever asks."""
_KEPT = ("retry-after", "retry-after-ms")
_KEPT_PREFIX = "x-ratelimit-"
_MOST_HEADERS, _MOST_HEADER = 16, 200
_REQUEST_IDS = ("x-request-id", "apim-request-id")
_HIDDEN = b"[hidden]"


def refusal(deployment: Deployment, response: httpx.Response, body: bytes, shown: Mapping[str, str]) -> Refused:
    """The error of an answer that is one; `shown` are the headers by which we showed who asks."""
    status, of = response.status_code, upstream(deployment, response)
    if status in {401, 403}:  # our key, not the caller's; what the provider says of it is nobody's business
        return locked_out(of)
    keys = (deployment.api_key, deployment.ad_token, deployment.client_secret)
    told = read_error(hide(body, [*keys, *(value.removeprefix("Bearer ") for value in shown.values())]), status)
    return Refused(
        BY_HTTP.get(status, StatusCode.UNKNOWN if status >= 500 else StatusCode.FAILED_PRECONDITION),
        told.message,
        of,
        type=told.type or _type(status),
        param=told.param,
        code=told.code,
        extra=told.extra,
    )


def locked_out(of: Upstream) -> Refused:
    """The error of credentials of ours that don't work."""
    return Refused(StatusCode.FAILED_PRECONDITION, OF_OURS, of, type=SERVER_ERROR, reason="PROVIDER_AUTH")


def silence(
    deployment: Deployment,
    message: str,
    code: StatusCode = StatusCode.UNAVAILABLE,
    headers: Mapping[str, str] | None = None,
    reason: str = "UPSTREAM",
    status: int = 0,
) -> Refused:
    """The error of a provider that answered nothing, or nothing of use with `status`; `headers` are for the caller."""
    nothing = Upstream(status, deployment.provider, deployment.name, headers=headers or {})
    return Refused(code, message, nothing, type=SERVER_ERROR, reason=reason)


def request_id(headers: Mapping[str, str]) -> str:
    """The provider's name for a request; empty where it has none that could be repeated in a header."""
    found = next((headers[name] for name in _REQUEST_IDS if name in headers), "")
    return found if found.isascii() and found.isprintable() and len(found) <= 128 else ""


def upstream(deployment: Deployment, response: httpx.Response) -> Upstream:
    """What of an answer is kept for callers, whatever it said."""
    kept = {
        name: value
        for name, value in response.headers.items()
        if (_is_wait(name, value) or name.startswith(_KEPT_PREFIX)) and _is_plain(value)
    }
    first = sorted(kept, key=lambda name: name not in _KEPT)  # when to come back is what callers need most
    headers = {name: kept[name] for name in first[:_MOST_HEADERS]}
    return Upstream(response.status_code, deployment.provider, deployment.name, request_id(response.headers), headers)


def is_whole(body: bytes | bytearray) -> bool:
    """Whether it is all of a JSON object, by which an error's body ends that says no length."""
    if not body.rstrip().endswith(b"}"):
        return False
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except (ValueError, RecursionError):
        return False


def _is_wait(name: str, value: str) -> bool:
    """Whether a header says when to come back, in a form that a client can read."""
    return name in _KEPT and transport.retry_after({name: value}) is not None


def _is_plain(value: str) -> bool:
    """Whether a header's value can be sent on in one of ours."""
    return len(value) <= _MOST_HEADER and value.isascii() and value.isprintable()


def hide(body: bytes, secrets: Iterable[str | None]) -> bytes:
    """The body without our keys: the pages that servers show of a crash repeat the headers of a request."""
    for secret in secrets:
        if secret:
            body = body.replace(secret.encode(), _HIDDEN)
    return body


def _type(status: int) -> str:
    if status == 429:
        return "requests"
    return SERVER_ERROR if status >= 500 else INVALID_REQUEST
