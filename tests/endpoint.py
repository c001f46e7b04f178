"""An OpenAI-compatible endpoint that costs next to nothing: a chat completion for every POST.

`python -m tests.endpoint` runs it in a process of its own; the first line on stdout says where.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Reply = Callable[[], None]
Behaviour = Callable[[int, Reply], None]

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_LINE = re.compile(rb"question (\d+)")
_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"question %d"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"


def at_once(_: int, reply: Reply) -> None:
    """The behaviour of an endpoint that holds nothing back."""
    reply()


@asynccontextmanager
async def answering(behaviour: Behaviour = at_once) -> AsyncIterator[str]:
    """Runs the endpoint and gives its api_base. `behaviour` gets N of a line's `question N`, and how to answer it."""
    loop = asyncio.get_running_loop()
    connections: set[asyncio.Transport] = set()
    server = await loop.create_server(lambda: _Connection(behaviour, connections), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for transport in connections:
            transport.abort()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as this endpoint's clients speak it: bodies with a length, one request after the other."""

    def __init__(self, behaviour: Behaviour, connections: set[asyncio.Transport]) -> None:
        self._behaviour = behaviour
        self._connections = connections
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (body := self._taken()) is not None:
            found = _LINE.search(body)
            assert found, body
            self._behaviour(int(found[1]), self._replying(int(found[1])))

    def _taken(self) -> bytes | None:
        """The body of the next whole request."""
        head, separator, _ = self._received.partition(_HEAD_END)
        length = _LENGTH.search(head)
        if not separator or not length:
            return None
        start = len(head) + len(_HEAD_END)
        end = start + int(length[1])
        if len(self._received) < end:
            return None
        body = bytes(self._received[start:end])
        del self._received[:end]
        return body

    def _replying(self, number: int) -> Reply:
        def reply() -> None:
            if not self._transport.is_closing():
                body = _BODY % number
                self._transport.write(_ANSWER % (len(body), body))

        return reply


async def _serve() -> None:
    async with answering() as api_base:
        print(f"endpoint on {api_base.removesuffix('/v1')}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
