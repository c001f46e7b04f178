"""One connection, driven piece by piece: what it reads, what it holds, when it stops and goes on reading."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.inputs import bounded, cut, cuts

from batchyard.common.http.connection import AHEAD_HIGH_WATER, ANSWER_HIGH_WATER
from batchyard.common.http.exchange import REQUEST_HIGH_WATER
from batchyard.common.http.request_body import MAX_CHUNK_OVERHEAD

from .cases import CHUNKED, H2C, LAST, SMUGGLED, WEBSOCKET
from .driving import App, fed, opened, settled, until
from .wire import CLOSE, HOST, answers, request

HUGE = b"x" * (1 << 20)


class TestSplits:
    """However a request is cut into packets, it is the same request."""

    @pytest.mark.parametrize("offer", [H2C, WEBSOCKET, ()], ids=["h2c", "websocket", "none"])
    @pytest.mark.parametrize("chunked", [False, True])
    async def test_a_body_after_an_offer_is_a_body_wherever_it_is_cut(
        self, offer: tuple[bytes, ...], chunked: bool
    ) -> None:
        length = b"Content-Length: %d" % len(SMUGGLED)
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED) if chunked else SMUGGLED
        whole = request(b"POST /a HTTP/1.1", CHUNKED if chunked else length, *offer, body=body) + LAST
        for at in range(len(whole)):
            app = App()
            connection, wire = opened(app)
            await fed(connection, wire, [whole[:at], whole[at:]])
            await until(lambda wire=wire: wire.closed)  # type: ignore[misc]
            assert app.came == [("POST", "/a", SMUGGLED), ("GET", "/PATH", b"")], at

    @bounded(100)
    @given(
        sizes=st.lists(st.integers(1, 300), max_size=6),
        filler=st.sampled_from([b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"x"]),
        at=cuts(3000),
    )
    async def test_chunks_are_put_together_wherever_they_are_cut(
        self, sizes: list[int], filler: bytes, at: list[int]
    ) -> None:
        pieces = [(filler * size)[:size] for size in sizes]
        body = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nX: y\r\n\r\n"
        app = App()
        connection, wire = opened(app)
        await fed(connection, wire, cut(request(b"POST /a HTTP/1.1", CHUNKED, body=body) + LAST, at))
        await until(lambda: wire.closed)
        assert app.came == [("POST", "/a", b"".join(pieces)), ("GET", "/PATH", b"")]


class TestHead:
    async def test_white_space_around_a_value_is_no_part_of_it(self) -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.extend(scope["headers"])

        connection, _ = opened(app)
        connection.data_received(request(b"GET / HTTP/1.1", b"A: k", b"B:\t k \t", b"C:k\t", b"D: a b ", b"E:   "))
        await settled()
        assert seen[1:] == [(b"a", b"k"), (b"b", b"k"), (b"c", b"k"), (b"d", b"a b"), (b"e", b"")]

    async def test_the_host_of_an_absolute_target_counts(self) -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope["path"], scope["raw_path"], scope["query_string"], scope["headers"]))

        connection, _ = opened(app)
        connection.data_received(request(b"GET http://elsewhere:8/a%20b?c=d HTTP/1.1"))
        await settled()
        assert seen == [("/a b", b"/a%20b", b"c=d", [(b"host", b"elsewhere:8")])]

    async def test_an_offer_is_as_if_it_were_not_there(self) -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.extend(name for name, _ in scope["headers"])

        connection, _ = opened(app)
        connection.data_received(request(b"GET / HTTP/1.1", b"UpGrade: h2c", b"X: upgrade", b"upgrade: y"))
        await settled()
        assert seen == [b"host", b"x"]


class TestContinue:
    EXPECTING = request(b"POST /a HTTP/1.1", b"Content-Length: 3", b"Expect: 100-continue")

    async def test_comes_when_the_application_first_reads(self) -> None:
        go = asyncio.Event()
        app = App()

        async def late(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await app(scope, receive, send)

        connection, wire = opened(late)
        connection.data_received(self.EXPECTING)
        await settled()
        assert wire.out == b""
        go.set()
        await settled()
        assert wire.out == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.data_received(b"abc")
        await settled()
        assert [(answer.status, answer.body) for answer in answers(bytes(wire.out))] == [(100, b""), (200, b"abc")]

    async def test_does_not_come_where_the_body_has_come(self) -> None:
        connection, wire = opened(App())
        connection.data_received(self.EXPECTING + b"abc")
        await settled()
        assert [answer.status for answer in answers(bytes(wire.out))] == [200]

    async def test_does_not_come_to_http_1_0(self) -> None:
        connection, wire = opened(App())
        connection.data_received(self.EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"))
        await settled()
        assert wire.out == b""
        connection.data_received(b"abc")
        await settled()
        assert [answer.status for answer in answers(bytes(wire.out))] == [200]

    async def test_does_not_come_after_a_refusal_which_ends_the_connection(self) -> None:
        async def refusing(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        connection, wire = opened(refusing)
        connection.data_received(self.EXPECTING)
        await settled()
        (answer,) = answers(bytes(wire.out))
        assert (answer.status, answer.headers["connection"], wire.ended, wire.closed) == (401, "close", True, False)
        connection.data_received(b"abc" + LAST)  # it may have been on its way
        await settled()
        assert len(answers(bytes(wire.out))) == 1
        assert not connection.eof_received()


class TestMemory:
    async def test_a_body_that_nobody_reads_stops_the_reading(self) -> None:
        taken = asyncio.Event()

        async def waiting(scope: Any, receive: Any, send: Any) -> None:
            await taken.wait()
            await App()(scope, receive, send)

        connection, wire = opened(waiting)
        connection.data_received(request(b"POST / HTTP/1.1", b"Content-Length: 1000000"))
        sent = 0
        while wire.reading:
            connection.data_received(b"x" * 1000)
            sent += 1000
        assert REQUEST_HIGH_WATER < sent <= REQUEST_HIGH_WATER + 1000
        taken.set()
        await settled()
        assert wire.reading

    async def test_requests_before_their_turn_stop_the_reading(self) -> None:
        go = asyncio.Event()

        async def waiting(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await App()(scope, receive, send)

        connection, wire = opened(waiting)
        one = request(b"GET / HTTP/1.1")
        connection.data_received(one)
        sent = 0
        while wire.reading:
            connection.data_received(one)
            sent += 1
        assert AHEAD_HIGH_WATER < sent * len(one) <= AHEAD_HIGH_WATER + len(one)
        go.set()
        await until(lambda: wire.out.count(b"200 OK") == sent + 1)
        assert wire.reading

    async def test_an_answer_that_nobody_takes_stops_the_sending(self) -> None:
        sent = 0

        async def endless(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(1000):
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                sent += 1000

        connection, wire = opened(endless, stuck=True)
        connection.data_received(request(b"GET / HTTP/1.1"))
        await settled()
        held = wire.get_write_buffer_size()
        assert ANSWER_HIGH_WATER < held <= ANSWER_HIGH_WATER + 1100
        before = sent
        await settled()
        assert sent == before
        wire.let_out()
        await settled()
        assert sent > before
        wire.close()
        await settled()

    async def test_more_is_asked_of_the_application_when_the_client_has_taken_the_most_of_it(self) -> None:
        asked = 0

        async def large(scope: Any, receive: Any, send: Any) -> None:
            nonlocal asked
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(5):
                asked += 1
                await send({"type": "http.response.body", "body": b"x" * 2 * ANSWER_HIGH_WATER, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        connection, wire = opened(large, stuck=True)
        connection.data_received(request(b"GET / HTTP/1.1"))
        for pieces in range(1, 6):
            await settled()
            assert asked == pieces
            wire.let_out()
        await settled()
        assert wire.out.endswith(b"\r\n0\r\n\r\n")
        wire.close()
        await settled()

    @pytest.mark.parametrize("endless", [b"0\r\nX: ", b"1;", b"2\r\nab\r\n1;a=", b"0\r\n" + b"X: y\r\n" * 9])
    async def test_lines_of_chunks_and_trailers_are_bounded(self, endless: bytes) -> None:
        app = App()
        connection, wire = opened(app)
        connection.data_received(request(b"POST / HTTP/1.1", CHUNKED, body=endless))
        await settled()
        connection.data_received(b"x" * (MAX_CHUNK_OVERHEAD + 1000))
        await settled()
        (answer,) = answers(bytes(wire.out))
        assert (answer.status, answer.headers["connection"], app.came) == (400, "close", [])
        assert str(MAX_CHUNK_OVERHEAD) in answer.error()["message"]

    async def test_small_chunks_with_small_extensions_are_not(self) -> None:
        app = App()
        connection, _ = opened(app)
        body = b"1;signature=0123456789abcdef\r\nx\r\n" * 5000 + b"0\r\n\r\n"
        connection.data_received(request(b"POST / HTTP/1.1", CHUNKED, body=body))
        await settled()
        assert app.came == [("POST", "/", b"x" * 5000)]


class TestEnds:
    async def test_a_body_that_can_not_be_read_is_refused_while_the_application_reads(self) -> None:
        app = App()
        connection, wire = opened(app)
        connection.data_received(request(b"POST / HTTP/1.1", CHUNKED, b"X-Request-Id: mine", body=b"1\r\na\r\n"))
        await settled()
        connection.data_received(b"no size\r\n")
        await settled()
        (answer,) = answers(bytes(wire.out))
        assert (answer.status, answer.headers["x-request-id"], app.came) == (400, "mine", [])

    async def test_who_shuts_its_side_in_the_midst_of_a_body_has_left(self) -> None:
        connection, wire = opened(App())
        connection.data_received(request(b"POST / HTTP/1.1", b"Content-Length: 9", body=b"a"))
        await settled()
        assert not connection.eof_received()
        wire.close()
        await settled()
        assert wire.out == b""

    async def test_what_came_before_the_end_is_answered(self) -> None:
        app = App()
        connection, wire = opened(app)
        connection.data_received(request(b"GET /a HTTP/1.1") + request(b"GET /b HTTP/1.1"))
        assert connection.eof_received()
        await until(lambda: wire.closed)
        assert [path for _, path, _ in app.came] == ["/a", "/b"]

    async def test_what_is_left_of_a_body_after_its_answer_is_no_request(self) -> None:
        async def early(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        connection, wire = opened(early)
        connection.data_received(request(b"POST / HTTP/1.1", b"Content-Length: %d" % len(SMUGGLED * 9)))
        await settled()
        for _ in range(9):
            connection.data_received(SMUGGLED)
        connection.data_received(LAST)
        await settled()
        assert len(answers(bytes(wire.out))) == 2
        assert wire.closed

    async def test_a_body_without_end_that_nobody_wants_is_cut_off(self) -> None:
        async def early(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        connection, wire = opened(early)
        connection.data_received(request(b"POST / HTTP/1.1", CHUNKED))
        await settled()
        sent = 0
        while not wire.closed:
            connection.data_received(b"100000\r\n" + HUGE + b"\r\n")
            sent += len(HUGE)
            assert sent < 32 << 20


MALFORMED: list[tuple[str, list[dict[str, Any]]]] = [
    ("nothing", []),
    ("a body without a head", [{"type": "http.response.body", "body": b"x"}]),
    ("a status of 100", [{"type": "http.response.start", "status": 100}]),
    ("a header in two lines", [{"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]}]),
    ("a name that is no token", [{"type": "http.response.start", "status": 200, "headers": [(b"a b", b"c")]}]),
    ("a length that is none", [{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"x")]}]),
]


class TestMalformedAnswers:
    @pytest.mark.parametrize("messages", [messages for _, messages in MALFORMED], ids=[name for name, _ in MALFORMED])
    async def test_of_which_nothing_has_left_become_500(
        self, messages: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def broken(scope: Any, receive: Any, send: Any) -> None:
            for message in messages:
                await send(message)

        connection, wire = opened(broken)
        connection.data_received(request(b"GET / HTTP/1.1"))
        await settled()
        (answer,) = answers(bytes(wire.out))
        assert (answer.status, answer.error()["type"]) == (500, "server_error")
        assert wire.closed

    @pytest.mark.parametrize("body", [b"ab", b"abcd"])
    async def test_of_another_length_than_they_say_are_cut_off(self, body: bytes) -> None:
        async def broken(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
            await send({"type": "http.response.body", "body": body})

        connection, wire = opened(broken)
        connection.data_received(request(b"GET / HTTP/1.1"))
        await settled()
        assert wire.closed
        assert body not in wire.out

    @pytest.mark.parametrize("status", [204, 304])
    async def test_have_no_body_where_there_is_none(self, status: int) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"not for the wire"})

        connection, wire = opened(app)
        connection.data_received(request(b"GET / HTTP/1.1") + b"GET / HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
        await until(lambda: wire.closed)
        came = answers(bytes(wire.out))
        assert [(answer.status, answer.body) for answer in came] == [(status, b"")] * 2
        assert not {"content-length", "transfer-encoding"} & set(came[0].headers)
