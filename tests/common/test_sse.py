import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from tests.eventsource import EventSource
from tests.harness import PATIENCE, plain_client

from batchyard.common.http import sse
from batchyard.common.http.listeners import listening


class Ticker:
    """An application that sends one event and then none, until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await sse.respond(scope, send, self._events(), quiet=60, idle=60)

    async def _events(self) -> AsyncGenerator[bytes]:
        try:
            yield sse.event("tick", b"1", mark="a")
            await self.let_go.wait()
        finally:
            self.ended.set()


async def test_a_listener_that_stops_ends_what_would_go_on_and_the_client_is_told() -> None:
    ticker = Ticker()
    async with listening(ticker, "127.0.0.1", 0, max_requests=5) as listener, asyncio.timeout(PATIENCE):
        base = f"http://127.0.0.1:{listener.port}"
        async with plain_client(base_url=base, timeout=PATIENCE) as client:
            events = EventSource(client, "/").connect()
            assert (await anext(events)).data == "1"
            stopping = asyncio.create_task(listener.drain(2 * PATIENCE))
            (last,) = [event async for event in events]
            assert last.name == "error"
            assert last.json()["error"]["type"] == "server_error"
        await stopping
        await ticker.ended.wait()


async def test_an_answer_whose_events_end_is_whole() -> None:
    ticker = Ticker()
    ticker.let_go.set()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ticker), base_url="http://sse") as client:
        assert (await client.get("/")).text == "event: tick\nid: a\ndata: 1\n\n"
