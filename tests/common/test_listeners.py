import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from batchyard.common import http1
from batchyard.common.addresses import address, reachable
from batchyard.common.listeners import Listener, ListenError, listening


class App:
    """Answers 200; on /slow only when it is let go, on /body with the size of the body."""

    def __init__(self) -> None:
        self.running = 0
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
        if scope["path"] == "/slow":
            await self.let_go.wait()
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"%d" % size})


@pytest.fixture
async def app() -> App:
    return App()


@asynccontextmanager
async def serving(app: App, **options: Any) -> AsyncIterator[tuple[Listener, httpx.AsyncClient]]:
    async with listening(app, "127.0.0.1", 0, **{"max_requests": 8, **options}) as listener:
        base = f"http://127.0.0.1:{listener.port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=10) as client:
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

    def test_a_wildcard_is_reached_over_loopback(self) -> None:
        assert [reachable(host) for host in ("0.0.0.0", "::", "10.0.0.1")] == ["127.0.0.1", "::1", "10.0.0.1"]

    async def test_localhost_listens_on_all_its_addresses_with_one_port(self, app: App) -> None:
        async with listening(app, "localhost", 0, max_requests=8) as listener:
            for family, *_, name in set(socket.getaddrinfo("localhost", listener.port, type=socket.SOCK_STREAM)):
                if family == socket.AF_INET or socket.has_dualstack_ipv6():
                    async with httpx.AsyncClient(trust_env=False) as client:
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


class TestBounds:
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
            answer = await client.get("/", headers={"x-large": "x" * http1.MAX_HEAD_BYTES})
            assert (answer.status_code, answer.json()["error"]["type"]) == (431, "invalid_request_error")
            assert "x-request-id" in answer.headers
            assert (await client.get("/", headers={"x-large": "x" * (http1.MAX_HEAD_BYTES - 1000)})).text == "0"

    async def test_a_head_that_never_ends_is_refused_early(self, app: App) -> None:
        async with serving(app) as (listener, _), connected(listener) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nx-endless: " + b"x" * (http1.MAX_HEAD_BYTES + 1))
            line, error = envelope(await reader.read())
            assert line == b"HTTP/1.1 431 Request Header Fields Too Large"
            assert str(http1.MAX_HEAD_BYTES) in error["message"]

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
    async def test_a_body_without_content_that_never_ends_is_cut_off(self, app: App, endless: bytes) -> None:
        async with serving(app) as (listener, _), connected(listener) as (reader, writer):
            writer.write(b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + endless)
            await app.came.wait()
            writer.write(b"x" * (http1.MAX_HEAD_BYTES + 1))
            assert await reader.read() == b""

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
