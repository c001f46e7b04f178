"""Requests of any make on one connection, cut anywhere: never more of them than another parser, h11, sees in them."""

import h11
from hypothesis import given
from hypothesis import strategies as st
from tests.common.http.driving import App, fed, opened, settled

from .inputs import bounded, cut, cuts, mutated

Seen = list[tuple[str, bytes]]

LINES = st.sampled_from(
    [b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"POST / HTTP/1.0", b"HEAD / HTTP/1.1", b"GET http://h/ HTTP/1.1",
     b"OPTIONS * HTTP/1.1", b"CONNECT h:1 HTTP/1.1", b"GET / HTTP/2.0", b"GET  / HTTP/1.1", b"PRI * HTTP/2.0"]
)  # fmt: skip
HEADERS = st.sampled_from(
    [b"A: b", b"A:\tb ", b"Connection: close", b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket",
     b"Expect: 100-continue", b"Content-Length: 5", b"Content-Length: 05", b"Content-Length: 5, 5",
     b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity",
     b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked", b" folded", b"\tfolded", b"Host: x",
     b"Content_Length: 5", b"Content-Length:", b"X: \xe9", b": a", b"Upgrade: h2c\r\n x", b"X: y\nContent-Length: 3"]
)  # fmt: skip
INNER = [b"hello", b"", b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n", b"0\r\n\r\n", b"\r\n\r\n", b"x" * 300]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, mostly good, whose body is framed as it says."""
    body, framing = (
        draw(st.sampled_from(INNER)),
        draw(st.sampled_from(["none", "length", "length", "chunked", "chunked"])),
    )
    headers = [b"Host: h", *draw(st.lists(HEADERS, max_size=2))]
    if framing == "length":
        headers.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        headers.append(b"Transfer-Encoding: chunked")
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), draw(EXTENSIONS), piece) for piece in (body, b"ab") if piece)
        body += b"0\r\n" + draw(st.sampled_from([b"", b"", b"X: y\r\n", b"Content-Length: 5\r\n"])) + b"\r\n"
    else:
        body = b""
    line = draw(st.just(b"POST / HTTP/1.1") | LINES)
    return b"\r\n".join([line, *draw(st.permutations(headers)), b"", body])


EXTENSIONS = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b"', b" ;a", b"\t", b";", b";a=b\rc"])
STREAMS = st.lists(requests(), min_size=1, max_size=4).map(b"".join)


def seen_by_h11(data: bytes) -> Seen:
    """The requests that h11 finds whole."""
    server, seen, body = h11.Connection(h11.SERVER), Seen(), b""
    server.receive_data(data)
    try:
        while (event := server.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
            if isinstance(event, h11.Request):
                method, body = event.method.decode(), b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                seen.append((method, body))
                server.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                server.send(h11.EndOfMessage())
                server.start_next_cycle()
    except h11.ProtocolError:
        pass
    return seen


async def seen_by_us(data: bytes, at: list[int]) -> Seen:
    app = App()
    connection, wire = opened(app)
    await fed(connection, wire, cut(data, at))
    if not wire.closed:
        wire.close()
    await settled()
    return [(method, body) for method, _, body in app.came]


@bounded(600)
@given(data=STREAMS | mutated(STREAMS), at=cuts(800))
async def test_never_more_requests_than_h11_sees(data: bytes, at: list[int]) -> None:
    ours, theirs = await seen_by_us(data, at), seen_by_h11(data)
    assert ours == theirs[: len(ours)]


@bounded(200)
@given(data=STREAMS | mutated(STREAMS), at=cuts(800))
async def test_the_cuts_change_nothing(data: bytes, at: list[int]) -> None:
    assert await seen_by_us(data, at) == await seen_by_us(data, [])


@bounded(100)
@given(
    bodies=st.lists(st.sampled_from(INNER), min_size=1, max_size=4), chunked=st.booleans(), at=cuts(800),
    offer=st.sampled_from([b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n"]),
)  # fmt: skip
async def test_of_good_ones_all_are_seen(bodies: list[bytes], chunked: bool, at: list[int], offer: bytes) -> None:
    """The control."""
    data = b""
    for body in bodies:
        head = b"POST / HTTP/1.1\r\nHost: h\r\n" + offer
        whole = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        if chunked:
            data += head + b"Transfer-Encoding: chunked\r\n\r\n" + whole + b"0\r\n\r\n"
        else:
            data += head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    assert await seen_by_us(data, at) == seen_by_h11(data) == [("POST", body) for body in bodies]
