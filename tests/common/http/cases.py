"""What a client may send, and how it is answered: wherever HTTP is served, by GET of PATH 200 and by POST of it 405."""

from dataclasses import dataclass, field

from batchyard.common.http.request_head import MAX_HEAD_BYTES

from .wire import CLOSE, HOST, request

PATH = b"/PATH"

GET = b"GET /PATH HTTP/1.1"
POST = b"POST /PATH HTTP/1.1"
CHUNKED = b"Transfer-Encoding: chunked"
LAST = b"GET /PATH HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
HIDDEN = request(GET)
SMUGGLED = request(b"GET /other HTTP/1.1")
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: eA==")


@dataclass(frozen=True)
class Case:
    """`pieces` are sent in packets of their own; `statuses` are those of all answers until the connection ends."""

    name: str
    pieces: tuple[bytes, ...]
    statuses: tuple[int, ...]
    methods: tuple[str, ...] = field(default=("GET",))


def _answered(name: str, *pieces: bytes, statuses: tuple[int, ...] = (200,), methods: tuple[str, ...] = ()) -> Case:
    return Case(name, pieces, statuses, methods)


def _length(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


def _refused(name: str, data: bytes, status: int = 400) -> Case:
    """One answer only, though a good request follows."""
    return Case(name, (data + LAST,), (status,))


def _head(name: str, *headers: bytes) -> Case:
    return _refused(name, request(GET, *headers))


def _chunks(name: str, body: bytes) -> Case:
    return _refused(name, request(POST, CHUNKED, body=body))


def _framed(name: str, *headers: bytes) -> Case:
    return _refused(name, request(POST, *headers, body=b"0\r\n\r\n"))


CLOSING = b"Connection: close"
EXPECT = b"Expect: 100-continue"

UNDERSTOOD = [
    _answered("a request", LAST),
    _answered("two at once", HIDDEN + LAST, statuses=(200, 200)),
    _answered("twenty at once", HIDDEN * 19 + LAST, statuses=(200,) * 20),
    _answered("a second one that comes in halves", HIDDEN + LAST[:20], LAST[20:], statuses=(200, 200)),
    _answered("HEAD has no body", request(b"HEAD /PATH HTTP/1.1") + LAST, statuses=(200, 200), methods=("HEAD",)),
    _answered("a name of headers in any case", LAST.replace(b"Host", b"hOsT")),
    _answered("white space around values", LAST.replace(b": localhost", b":\t localhost \t")),
    _answered("no white space before a value", LAST.replace(b": ", b":")),
    _answered("an empty value", request(GET, b"X-Empty:", CLOSING)),
    _answered("a value of Latin-1", request(GET, b"X-Name: \xe9", CLOSING)),
    _answered("close among other options", request(GET, b"Connection: x, Close") + HIDDEN),
    _answered("an absolute target", request(b"GET http://elsewhere:80/PATH?a=b HTTP/1.1", CLOSING)),
    _answered("a large head", request(GET, b"X: " + b"x" * (MAX_HEAD_BYTES - 1000), CLOSING)),
    _answered("HTTP/1.0", b"GET /PATH HTTP/1.0\r\n\r\n" + HIDDEN),
    _answered("HTTP/1.0 that keeps", request(GET[:-1] + b"0", b"Connection: keep-alive") + LAST, statuses=(200, 200)),
    _answered("HTTP/1.0 expects nothing", request(GET[:-1] + b"0", EXPECT)),
    _answered("an offer of h2c", request(GET, *H2C) + LAST, statuses=(200, 200)),
    _answered("an offer of a WebSocket", request(GET, *WEBSOCKET) + LAST, statuses=(200, 200)),
    _answered("any other offer", request(GET, b"Connection: upgrade", b"UPGRADE: TLS/1.2") + LAST, statuses=(200, 200)),
    *(
        _answered(f"a body after {name}", request(POST, _length(SMUGGLED), *offer), SMUGGLED, LAST, statuses=(405, 200))
        for name, offer in (("an offer of h2c", H2C), ("an offer of a WebSocket", WEBSOCKET), ("no offer", ()))
    ),
    *(
        _answered(name, request(POST, CHUNKED, *offer), body, LAST, statuses=(405, 200))
        for name, offer, body in (
            ("chunks", (), b"2\r\nab\r\n0\r\n\r\n"),
            ("chunks after an offer", H2C, b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
            ("extensions and a trailer", (), b'2;a;b=c;d="e"\r\nab\r\n0;f\r\nX: y\r\nHost: elsewhere\r\n\r\n'),
            ("a chunk that has empty lines", (), b"6\r\n\r\n\r\n\r\n\r\n0\r\n\r\n"),
        )
    ),
    _answered("CHUNKED", request(POST, CHUNKED.upper(), body=b"0\r\n\r\n") + LAST, statuses=(405, 200)),
    _answered("a body that is refused before it comes", request(POST, b"Content-Length: 5", EXPECT), statuses=(405,)),
    _answered("nothing to wait for", request(POST, b"Content-Length: 0", EXPECT) + LAST, statuses=(405, 200)),
]

REFUSED = [
    _refused("no line of HTTP", b"hello there\r\n\r\n"),
    _refused("TLS where none is spoken", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    _refused("HTTP/2 without asking", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _refused("HTTP/2.0 in HTTP/1.1's form", request(b"GET /PATH HTTP/2.0")),
    _refused("HTTP/0.9", b"GET /PATH\r\n\r\n"),
    _refused("HTTP/1.2", request(b"GET /PATH HTTP/1.2")),
    _refused("RTSP", request(b"DESCRIBE /PATH RTSP/1.0")),
    _refused("a method in lower case", request(b"get /PATH HTTP/1.1")),
    _refused("an unknown method", request(b"GRAB /PATH HTTP/1.1")),
    _refused("two spaces in the line", request(b"GET  /PATH HTTP/1.1")),
    _refused("a tab in the line", request(b"GET\t/PATH HTTP/1.1")),
    _refused("a space in the target", request(b"GET /PATH x HTTP/1.1")),
    _refused("a target in UTF-8", request("GET /é HTTP/1.1".encode())),
    _refused("a target that is no path", request(b"GET PATH HTTP/1.1")),
    _refused("* for what is not OPTIONS", request(b"GET * HTTP/1.1")),
    _refused("a target of another scheme", request(b"GET ftp://localhost/PATH HTTP/1.1")),
    _refused("a target with a user", request(b"GET http://me@localhost/PATH HTTP/1.1")),
    _refused("an empty line first", b"\r\n" + HIDDEN),
    _refused("CONNECT", request(b"CONNECT localhost:443 HTTP/1.1"), 405),
    _refused("CONNECT with an offer", request(b"CONNECT localhost:443 HTTP/1.1", *H2C), 405),
    _refused("no Host", b"GET /PATH HTTP/1.1\r\n\r\n"),
    _refused("two Hosts", request(GET, b"Host: elsewhere")),
    _refused("the same Host twice", request(GET, b"Host: localhost")),
    _refused("two Hosts, HTTP/1.0", request(b"GET /PATH HTTP/1.0", b"Host: elsewhere")),
    _refused("a Host that is none", b"GET /PATH HTTP/1.1\r\nHost: a b\r\n\r\n"),
    _refused("a Host with a path", b"GET /PATH HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    _head("a folded header", b"X-Folded: a\r\n b"),
    _head("a header folded by a tab", b"X-Folded: a\r\n\tb"),
    _head("a folded offer", b"X-Kept: a", b"Upgrade: h2c\r\n b", b"Connection: Upgrade"),
    _refused("a folded first line", b"GET /PATH HTTP/1.1\r\n Host: localhost\r\n\r\n"),
    _head("a bare LF within a head", b"X: a\nY: b"),
    _head("a bare CR within a head", b"X: a\rY: b"),
    _refused("a head with bare LFs only", b"GET /PATH HTTP/1.1\nHost: localhost\n\n"),
    _head("white space before a colon", b"X : a"),
    _head("an offer with white space before its colon", b"Connection: Upgrade", b"Upgrade : h2c"),
    _head("an offer with NUL", b"Upgrade: h2c\0"),
    _head("a header without a name", b": a"),
    _head("a header without a colon", b"X"),
    _head("a name that is no token", b"X(Y): a"),
    _head("a name in UTF-8", "X-é: a".encode()),
    _head("NUL in a value", b"X: a\0b"),
    _head("a control character in a value", b"X: a\x08b"),
    _head("DEL in a value", b"X: a\x7fb"),
    _refused("a head that is too large", request(GET, b"X: " + b"x" * MAX_HEAD_BYTES), 431),
    _refused("an expectation that nobody knows", request(POST, b"Expect: 200-ok", b"Content-Length: 0"), 417),
    _refused("two expectations", request(POST, b"Expect: 100-continue, x", b"Content-Length: 0"), 417),
    _framed("a length and chunks", b"Content-Length: 5", CHUNKED),
    _framed("chunks and a length", CHUNKED, b"Content-Length: 5"),
    _framed("two lengths", b"Content-Length: 5", b"Content-Length: 6"),
    _framed("the same length twice", b"Content-Length: 5", b"Content-Length: 5"),
    _framed("a list of lengths", b"Content-Length: 5, 5"),
    _framed("a length with a sign", b"Content-Length: +5"),
    _framed("a negative length", b"Content-Length: -5"),
    _framed("a length in base 16", b"Content-Length: 0x5"),
    _framed("an empty length", b"Content-Length:"),
    _framed("a length beyond any number", b"Content-Length: 99999999999999999999999"),
    _framed("another coding", b"Transfer-Encoding: gzip"),
    _framed("another coding before chunks", b"Transfer-Encoding: gzip, chunked"),
    _framed("another coding behind chunks", b"Transfer-Encoding: chunked, gzip"),
    _framed("chunks of chunks", b"Transfer-Encoding: chunked, chunked"),
    _framed("chunks twice", CHUNKED, CHUNKED),
    _framed("another coding in a header before chunks", b"Transfer-Encoding: identity", CHUNKED),
    _framed("an empty coding before chunks", b"Transfer-Encoding: ", CHUNKED),
    _framed("chunks in quotes", b'Transfer-Encoding: "chunked"'),
    _framed("an empty coding", b"Transfer-Encoding:"),
    _refused("chunks of HTTP/1.0", request(b"POST /PATH HTTP/1.0", CHUNKED, body=b"0\r\n\r\n")),
]

CHUNKS = [
    _chunks("a chunk that ends with LF", b"1\na\r\n0\r\n\r\n"),
    _chunks("a chunk's data that end with LF", b"1\r\na\n0\r\n\r\n"),
    _chunks("a chunk with more data than it says", b"1\r\nab\r\n0\r\n\r\n"),
    _chunks("a chunk's size with a sign", b"+1\r\na\r\n0\r\n\r\n"),
    _chunks("a chunk's size with a prefix", b"0x1\r\na\r\n0\r\n\r\n"),
    _chunks("a chunk's size with white space", b"1 \r\na\r\n0\r\n\r\n"),
    _chunks("a chunk without a size", b"\r\na\r\n0\r\n\r\n"),
    _chunks("a chunk's size beyond any number", b"fffffffffffffffff\r\na\r\n0\r\n\r\n"),
    _chunks("LF in a chunk's extension", b"1;a\nb\r\na\r\n0\r\n\r\n"),
    _chunks("a trailer that ends with LF", b"0\r\nX: a\n\r\n"),
    _chunks("a trailer without a colon", b"0\r\nX\r\n\r\n"),
    _chunks("a folded trailer", b"0\r\nX: a\r\n b\r\n\r\n"),
]
