"""An OpenAI-compatible endpoint that does as it is told, as a real server on a free port."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchyard.common.http.listeners import listening

Behaviour = Callable[[dict[str, Any], int], Awaitable[Response]]


def completion(body: dict[str, Any], *, status_code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A chat completion that says what it was asked."""
    message = {"role": "assistant", "content": body["messages"][-1]["content"]}
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}
    return JSONResponse({**answer, "usage": usage}, status_code, headers)


def failure(status_code: int, code: str | None = None, headers: dict[str, str] | None = None) -> Response:
    error = {"message": f"failure {status_code}", "type": "test_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status_code, headers)


class FakeEndpoint:
    """Counts what it is asked, by the content of the last message, and answers as `behaviour` says.

    `behaviour` gets the request's body and how often its content has been asked before.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.calls: Counter[str] = Counter()
        self.at_once = 0
        self.most_at_once = 0
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.api_base = ""
        self._behaviour = behaviour

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        asked = body["messages"][-1]["content"]
        before = self.calls[asked]
        self.calls[asked] += 1
        self.requests.append((request.url.path, dict(request.headers)))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._behaviour(body, before)
        finally:
            self.at_once -= 1


@asynccontextmanager
async def fake_endpoint(behaviour: Behaviour) -> AsyncIterator[FakeEndpoint]:
    """A running endpoint; its `api_base` ends in /v1."""
    fake = FakeEndpoint(behaviour)
    app = Starlette(routes=[Route("/v1/{path:path}", fake.answer, methods=["POST"])])
    async with listening(app, "127.0.0.1", 0, max_requests=1000) as listener:
        fake.api_base = f"http://127.0.0.1:{listener.port}/v1"
        yield fake


class Going:
    """The control of a batch that goes on as long as `wanted` says, and until it is stopped."""

    def __init__(self, wanted: Callable[[], bool] = lambda: True) -> None:
        self._wanted = wanted
        self._stopped = False
        self._waiting: set[asyncio.Future[bool]] = set()

    def stop(self) -> None:
        self._stopped = True
        for waiting in self._waiting:
            waiting.set_result(False)

    def go_on(self) -> bool:
        return not self._stopped and self._wanted()

    @contextmanager
    def interrupting(self, waiting: asyncio.Future[bool]) -> Iterator[None]:
        self._waiting.add(waiting)
        try:
            yield
        finally:
            self._waiting.discard(waiting)


class Gate:
    """Holds answers back until it is opened."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        await self._open.wait()


class Sluice:
    """Lets as many answers through as it is told, counted from the beginning."""

    def __init__(self) -> None:
        self._allowed = 0
        self._free = asyncio.Semaphore(0)

    def allow(self, answers: int) -> None:
        for _ in range(self._allowed, answers):
            self._free.release()
        self._allowed = max(self._allowed, answers)

    async def passed(self) -> None:
        await self._free.acquire()


@asynccontextmanager
async def sluiced() -> AsyncIterator[tuple[Sluice, FakeEndpoint]]:
    """An endpoint behind a sluice, which is open when the context ends."""
    sluice = Sluice()

    async def behaviour(body: dict[str, Any], _: int) -> Response:
        await sluice.passed()
        return completion(body)

    async with fake_endpoint(behaviour) as fake:
        try:
            yield sluice, fake
        finally:
            sluice.allow(10_000)
