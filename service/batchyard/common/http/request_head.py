"""The head of an HTTP/1.1 request (RFC 9112): read by httptools, and refused where two readers could differ on it."""

import re
from dataclasses import dataclass

import httptools

from batchyard.common.http.request_body import Body, ChunkedBody, CountedBody, Events, RequestError

MAX_HEAD_BYTES = 64 << 10
END_OF_HEAD = b"\r\n\r\n"

Headers = list[tuple[bytes, bytes]]

_LINE = re.compile(rb"([A-Z-]{1,32}) ([\x21-\x7e]+) HTTP/(1\.[01])")
_NOT_A_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_OFFER = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_HIDDEN = b"-hidden-offer"  # a name that the parser reads as any other
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)([^#]*)", re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
_METHOD = re.compile(rb"[A-Z-]{1,32}(?= )")

_NO_LINE = "The request does not begin with a line of HTTP/1.1 or HTTP/1.0."


@dataclass(slots=True)
class RequestHead:
    """A request's head: `path` and `query` as they were sent, header names in lower case, values without white space
    around them. `expects` is whether the client waits for 100 (Continue) before it sends the body."""

    method: str
    path: bytes
    query: bytes
    version: str
    headers: Headers
    body: Body
    keep_alive: bool
    expects: bool


def read_head(data: bytes) -> RequestHead:
    """The head in `data`, which ends with END_OF_HEAD. Raises RequestError.

    An offer to upgrade is left out, as RFC 9110, 7.8 permits. The parser doesn't see that it is one: else it would take
    what follows the head for another protocol.
    """
    line = _LINE.fullmatch(data, 0, data.find(b"\r\n"))
    if not line:
        raise RequestError(400, _NO_LINE)
    method, target, version = line[1].decode(), line[2], line[3].decode()
    if method == "CONNECT":
        raise RequestError(405, "CONNECT is for proxies, and this is none.", ((b"allow", b"GET, HEAD, POST, DELETE"),))
    if offers := b"\nupgrade:" in data.lower():
        data = _OFFER.sub(b"\r\n%b:" % _HIDDEN, data)
    events = Events()
    parser = httptools.HttpRequestParser(events)
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        raise RequestError(400, f"The request's headers can't be read: {error}.") from None
    if parser.should_upgrade():
        raise RequestError(400, "This server speaks HTTP/1.1 and nothing else.")
    headers = [header for header in events.headers if header[0] != _HIDDEN] if offers else events.headers
    path, query = _split(method, target, headers)
    fields = dict(headers)
    names = [name for name, _ in headers]
    _check_host(version, fields, names.count(b"host"))
    coding = fields.get(b"transfer-encoding")
    if coding is None:
        body: Body = CountedBody(int(fields.get(b"content-length", 0)))
    else:
        _check_coding(version, coding, names.count(b"transfer-encoding"))
        body = ChunkedBody(parser, events)
    expects = _expects(version, headers) if b"expect" in fields else False
    return RequestHead(method, path, query, version, headers, body, _keeps_alive(version, headers, fields), expects)


def wrong_beginning(data: bytes | bytearray, start: int = 0) -> str | None:
    """What is wrong with a head that has not ended and of which what is before `start` was looked at before."""
    end = data.find(b"\r\n")
    if not b"A" <= data[:1] <= b"Z" or (end >= 0 and not _LINE.fullmatch(data, 0, end)):
        return _NO_LINE
    if _NOT_A_LINE_END.search(data, max(start - 1, 0), len(data) - data.endswith(b"\r")):
        return "The request's headers have a line that does not end with CR and LF."
    return None


def read_anyway(data: bytes | bytearray) -> tuple[str, Headers]:
    """The method and the request id of a head that could not be read, as far as they are there."""
    method, name = _METHOD.match(data), _REQUEST_ID.search(data, 0, MAX_HEAD_BYTES)
    return method[0].decode() if method else "-", [(b"x-request-id", bytes(name[1]))] if name else []


def _split(method: str, target: bytes, headers: Headers) -> tuple[bytes, bytes]:
    """The path and the query of a target in any form; of an absolute one, its authority becomes the host."""
    if target == b"*" and method == "OPTIONS":
        return target, b""
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.match(target)
        if not absolute:
            raise RequestError(400, "The request's target is no path.")
        headers[:] = [(name, absolute[1] if name == b"host" else value) for name, value in headers]
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    path, _, query = target.partition(b"#")[0].partition(b"?")
    return path, query


def _check_host(version: str, fields: dict[bytes, bytes], count: int) -> None:
    """RFC 9112, 3.2: exactly one, of HTTP/1.0 at most one."""
    if count > 1 or (not count and version == "1.1"):
        raise RequestError(400, f"A request has one Host header; this one has {count}.")
    if count and not _HOST.fullmatch(fields[b"host"]):
        raise RequestError(400, "The Host header is no name of a host.")


def _check_coding(version: str, coding: bytes, count: int) -> None:
    """The parser takes any list that ends with chunked."""
    if version == "1.0":  # RFC 9112, 6.1
        raise RequestError(400, "HTTP/1.0 has no Transfer-Encoding.")
    if count > 1 or coding.lower() != b"chunked":
        raise RequestError(400, "The only Transfer-Encoding that this server reads is chunked.")


def _keeps_alive(version: str, headers: Headers, fields: dict[bytes, bytes]) -> bool:
    """RFC 9112, 9.3. The parser forgets what it read of it at the end of a message."""
    if b"connection" not in fields:
        return version == "1.1"
    given = b",".join(value for name, value in headers if name == b"connection").lower()
    options = {option.strip() for option in given.split(b",")}
    return b"close" not in options and (version == "1.1" or b"keep-alive" in options)


def _expects(version: str, headers: Headers) -> bool:
    """Whether there is an expectation that the server meets; HTTP/1.0 has none (RFC 9110, 10.1.1)."""
    if version == "1.0":
        return False
    if any(value.lower() != b"100-continue" for name, value in headers if name == b"expect"):
        raise RequestError(417, "The only expectation that this server meets is 100-continue.")
    return True
