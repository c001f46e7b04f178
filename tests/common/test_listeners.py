import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.harness import plain_client
from tests.sockets import sockets

from batchyard.common.addresses import address
from batchyard.common.http.listeners import Listener, ListenError, listening
from batchyard.common.http.request_head import MAX_HEAD_BYTES
from batchyard.common.http.service import LINGER_SECONDS

LARGE = b"x" * (32 << 20)  # more than the kernel takes


class App:
    """Answers 200 and the body's size; on */slow only when it is let go, on /large at length, on /half incompletely."""

    def __init__(self) -> None:
        self.running = 0
        self.headers: list[bytes] = []
        self.let_go = asyncio.Event()
        self.came = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        self.came.set()
        try:
            await self._answer(scope, receive, send)
        finally:
            self.running -= 1

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("/slow"):
            await self.let_go.wait()
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        self.headers = [name for name, _ in scope["headers"]]
        body = LARGE if scope["path"] == "/large" else b"%d" % size
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body, "more_body": scope["path"] == "/half"})


@pytest.fixture
async def app() -> App:
    return App()


@asynccontextmanager
async def serving(app: App, **options: Any) -> AsyncIterator[tuple[Listener, httpx.AsyncClient]]:
    async with listening(app, "127.0.0.1", 0, **{"max_requests": 8, **options}) as listener:
        base = f"http://127.0.0.1:{listener.port}"
        async with plain_client(base_url=base, timeout=10) as client:
            yield listener, client


@asynccontextmanager
async def connected(listener: Listener) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    try:
        yield reader, writer
    finally:
        writer.close()


def envelope(answer: bytes) -> tuple[bytes, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], json.loads(body)["error"]


class TestAddress:
    def test_any_free_port_is_taken_and_named(self) -> None:
        assert address("127.0.0.1", 4000) == "127.0.0.1:4000"
        assert address("::1", 4000) == "[::1]:4000"

    async def test_localhost_listens_on_all_its_addresses_with_one_port(self, app: App) -> None:
        async with listening(app, "localhost", 0, max_requests=8) as listener:
            for family, *_, name in set(socket.getaddrinfo("localhost", listener.port, type=socket.SOCK_STREAM)):
                if family == socket.AF_INET or socket.has_dualstack_ipv6():
                    async with plain_client(timeout=10) as client:
                        answer = await client.get(f"http://{address(str(name[0]), listener.port)}/")
                    assert answer.status_code == 200

    async def test_a_port_in_use_is_said_so(self, app: App) -> None:
        async with serving(app) as (listener, _):
            with pytest.raises(ListenError, match=f"can't listen on 127.0.0.1:{listener.port}: "):
                async with listening(app, "127.0.0.1", listener.port, max_requests=8):
                    pass

    async def test_a_host_that_is_no_address_is_said_so(self, app: App) -> None:
        with pytest.raises(ListenError, match="not an address of this machine"):
            async with listening(app, "no such host", 0, max_requests=8):
                pass


class TestStop:
    async def test_a_drain_lets_running_requests_finish_and_accepts_no_more(self, app: App) -> None:
        async with serving(app) as (listener, client):
            request = asyncio.create_task(client.get("/slow"))
            await app.came.wait()
            drain = asyncio.create_task(listener.drain(30))
            await _refused(listener.port)
            assert not drain.done()
            app.let_go.set()
            assert (await request).status_code == 200
            await drain

    async def test_a_request_that_outlives_the_drain_is_cut_off(self, app: App) -> None:
        async with serving(app) as (listener, client):
            request = asyncio.create_task(client.get("/slow"))
            await app.came.wait()
            await listener.drain(0.05)
            assert app.running == 0
            with pytest.raises(httpx.TransportError):
                await request

    async def test_leaving_the_context_stops_at_once(self, app: App) -> None:
        async with serving(app) as (listener, client):
            assert (await client.get("/")).text == "0"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", listener.port)

    async def test_idle_connections_do_not_hold_a_drain_up(self, app: App) -> None:
        async with serving(app) as (listener, client), connected(listener):
            await client.get("/")
            async with asyncio.timeout(10):
                await listener.drain(60)

    async def test_a_client_that_does_not_read_does_not_hold_a_stop_up(self, app: App) -> None:
        async with serving(app, idle_seconds=3600) as (listener, _), not_reading(listener, b"/large"):
            await app.came.wait()
            async with asyncio.timeout(LINGER_SECONDS + 20):
                await listener.drain(3600)


class TestSlowReaders:
    async def test_an_answer_that_is_not_read_runs_until_its_client_is_cut_off(self, app: App) -> None:
        async with serving(app, max_requests=1, idle_seconds=1) as (listener, client):
            assert (await client.get("/")).status_code == 200
            before = sockets()
            async with not_reading(listener, b"/large"):
                await _status(client, 503)
                await _status(client, 200)
                await eventually(lambda: sockets() <= before + 1)  # the client's own

    async def test_one_who_takes_nothing_is_cut_off_while_the_application_sends(self) -> None:
        sent = ended = 0

        async def streaming(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent, ended
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(64):
                await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})
                sent += 1
                if (await receive_now(receive))["type"] == "http.disconnect":
                    break
            ended = True

        async with (
            listening(streaming, "127.0.0.1", 0, max_requests=8, idle_seconds=1) as listener,
            not_reading(listener, b"/"),
        ):
            await eventually(lambda: bool(ended))
        assert sent < 64

    async def test_an_answer_that_is_not_finished_takes_its_connection_along(
        self, app: App, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving(app, idle_seconds=3600) as (listener, client):
            assert (await client.get("/")).status_code == 200
            app.came.clear()
            before = sockets()
            async with not_reading(listener, b"/half"):
                await app.came.wait()
                await eventually(lambda: sockets() <= before + 1)
        assert logged(caplog) == []

    async def test_a_large_answer_comes_whole_to_a_slow_reader(self, app: App) -> None:
        async with serving(app, idle_seconds=0.2) as (_, client), client.stream("GET", "/large") as answer:
            size = 0
            async for piece in answer.aiter_bytes(1 << 20):
                size += len(piece)
                await asyncio.sleep(0.02)
            assert size == len(LARGE)


class TestRefusals:
    async def test_each_is_logged_once_with_the_callers_id(self, app: App, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        async with serving(app, max_requests=1) as (_, client):
            first = asyncio.create_task(client.get("/slow"))
            await app.came.wait()
            for large, status in (("", 503), ("x" * MAX_HEAD_BYTES, 431)):
                caplog.clear()
                answer = await client.get("/", headers={"x-request-id": "mine-1", "x-large": large})
                assert (answer.status_code, answer.headers["x-request-id"]) == (status, "mine-1")
                (line,) = logged(caplog)
                assert (line["status"], line["request_id"], line["method"]) == (status, "mine-1", "GET")
            app.let_go.set()
            await first

    @pytest.mark.parametrize(("sent", "status"), [(b"\x16\x03 hello\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nx: ", 408)])
    async def test_one_without_a_head_is_logged_once(
        self, app: App, sent: bytes, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with serving(app, head_seconds=0.1) as (listener, _), connected(listener) as (reader, writer):
            writer.write(sent)
            answer = await reader.read()
        (line,) = logged(caplog)
        assert line["status"] == status
        assert f"x-request-id: {line['request_id']}\r\n".encode() in answer

    async def test_probes_are_answered_however_many_requests_run(self, app: App) -> None:
        async with serving(app, max_requests=1) as (_, client):
            first = asyncio.create_task(client.get("/slow"))
            await app.came.wait()
            assert (await client.get("/health/liveliness")).status_code == 200
            assert (await client.get("/healthy")).status_code == 503
            app.let_go.set()
            await first


class TestBounds:
    async def test_a_trailer_is_no_header(self, app: App) -> None:
        async with serving(app) as (listener, _), connected(listener) as (reader, writer):
            writer.write(b"POST /slow HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
            await app.came.wait()
            writer.write(b"0\r\nauthorization: late\r\n\r\n")
            app.let_go.set()
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        assert app.headers == [b"host", b"transfer-encoding", b"connection"]

    async def test_more_requests_at_once_than_allowed_are_told_to_come_again(self, app: App) -> None:
        async with serving(app, max_requests=1) as (_, client):
            first = asyncio.create_task(client.get("/slow"))
            await app.came.wait()
            answer = await client.get("/")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"]["type"] == "server_error"
            app.let_go.set()
            assert (await first).status_code == 200
            assert (await client.get("/")).status_code == 200

    async def test_a_head_that_is_too_large_is_refused(self, app: App) -> None:
        async with serving(app) as (_, client):
            answer = await client.get("/", headers={"x-large": "x" * MAX_HEAD_BYTES})
            assert (answer.status_code, answer.json()["error"]["type"]) == (431, "invalid_request_error")
            assert "x-request-id" in answer.headers
            assert (await client.get("/", headers={"x-large": "x" * (MAX_HEAD_BYTES - 1000)})).text == "0"

    async def test_a_head_that_never_ends_is_refused_early(self, app: App) -> None:
        async with serving(app) as (listener, _), connected(listener) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nx-endless: " + b"x" * (MAX_HEAD_BYTES + 1))
            line, error = envelope(await reader.read())
            assert line == b"HTTP/1.1 431 Request Header Fields Too Large"
            assert str(MAX_HEAD_BYTES) in error["message"]

    async def test_a_head_that_takes_too_long_is_refused(self, app: App) -> None:
        async with serving(app, head_seconds=0.05) as (listener, _), connected(listener) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nx-slow: ")
            line, _ = envelope(await reader.read())
            assert line == b"HTTP/1.1 408 Request Timeout"

    async def test_a_connection_that_sends_nothing_is_closed_without_a_word(self, app: App) -> None:
        async with serving(app, head_seconds=0.05) as (listener, _), connected(listener) as (reader, _):
            assert await reader.read() == b""

    async def test_an_answer_may_take_longer_than_a_head(self, app: App) -> None:
        async with serving(app, head_seconds=0.05) as (listener, _), connected(listener) as (reader, writer):
            writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET /")
            asyncio.get_running_loop().call_later(0.3, app.let_go.set)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"

    @pytest.mark.parametrize("endless", [b"0\r\nx-trailer: ", b"1;extension="])
    async def test_a_body_without_content_that_never_ends_is_refused(self, app: App, endless: bytes) -> None:
        async with serving(app) as (listener, _), connected(listener) as (reader, writer):
            writer.write(b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + endless)
            await app.came.wait()
            writer.write(b"x" * (MAX_HEAD_BYTES + 1))
            line, _ = envelope(await reader.read())
            assert line == b"HTTP/1.1 400 Bad Request"

    async def test_a_large_body_is_no_head(self, app: App) -> None:
        async with serving(app) as (_, client):
            assert (await client.post("/body", content=b"x" * 3_000_000)).text == "3000000"
            pieces = [b"x" * 100_000] * 5

            async def chunked() -> AsyncIterator[bytes]:
                for piece in pieces:
                    yield piece

            assert (await client.post("/body", content=chunked())).text == "500000"

    async def test_what_is_not_http_is_answered_in_the_envelope(self, app: App) -> None:
        async with serving(app) as (listener, _), connected(listener) as (reader, writer):
            writer.write(b"\x16\x03\x01 hello\r\n\r\n")
            line, error = envelope(await reader.read())
            assert (line, error["type"]) == (b"HTTP/1.1 400 Bad Request", "invalid_request_error")

    async def test_the_server_does_not_name_its_software(self, app: App) -> None:
        async with serving(app) as (_, client):
            assert "server" not in (await client.get("/")).headers


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What the server logged."""
    return [vars(record) for record in caplog.records if record.name == "batchyard.shim"]


@asynccontextmanager
async def not_reading(listener: Listener, path: bytes) -> AsyncIterator[asyncio.StreamWriter]:
    """A client that asks for `path` and reads nothing."""
    async with connected(listener) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path)
        yield writer


async def receive_now(receive: Any) -> dict[str, Any]:
    """What the application is told at once; an empty message where that is nothing."""
    try:
        async with asyncio.timeout(0.01):
            return dict(await receive())
    except TimeoutError:
        return {"type": ""}


async def _status(client: httpx.AsyncClient, status: int) -> None:
    async with asyncio.timeout(10):
        while (await client.get("/")).status_code != status:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _refused(port: int) -> None:
    """Waits until nothing listens on `port`."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.01)
