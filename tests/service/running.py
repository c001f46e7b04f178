"""Single lines, run against endpoints of every kind."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.responses import Response
from tests.fakes import Going, fake_endpoint
from tests.harness import figures

from batchyard.service.config.settings import LocalSettings
from batchyard.service.engine.runners.http import open_endpoint
from batchyard.service.jsonl.results import Answer, Failure

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"

Outcome = Answer | Failure | None
Run = Callable[..., Coroutine[Any, Any, Outcome]]


@asynccontextmanager
async def runner(api_base: str, **changes: Any) -> AsyncIterator[Run]:
    """Runs a line whose last message is its argument; `max_attempts` is 2 unless it is said."""
    settings = LocalSettings(api_base=api_base, **{"max_attempts": 2, **changes})
    async with open_endpoint(settings, figures()) as endpoint:

        async def run(
            content: str = "question", path: str = CHAT, seconds: float = 30, control: Going | None = None
        ) -> Outcome:
            control = control or Going()
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
            if not await endpoint.slots.acquire(control):
                return None
            try:
                end = asyncio.get_running_loop().time() + seconds
                return await endpoint.run(path, body, until=end, control=control)
            finally:
                endpoint.slots.release()

        yield run


@asynccontextmanager
async def raw_endpoint(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Reads a request's head and a piece of its body, writes `answer`, and cuts the connection."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", heads


def answering(content: bytes, status_code: int = 200, **headers: str) -> Callable[[Any, int], Awaitable[Response]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def behaviour(body: dict[str, Any], before: int) -> Response:
        return Response(content, status_code, named, media_type="application/json")

    return behaviour


async def outcome_of(content: bytes, status_code: int = 200, **headers: str) -> Outcome:
    async with fake_endpoint(answering(content, status_code, **headers)) as fake, runner(fake.api_base) as run:
        outcome = await run()
        assert sum(fake.calls.values()) == 1
        return outcome
