"""A browser's EventSource, as the HTML standard (9.2) describes it, over httpx."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass
class Event:
    name: str
    data: str
    last_id: str

    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.data))


class EventSource:
    """Reads a stream, and remembers what it sends along when it connects again."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self.closed = False
        self.last_id = ""
        self.retry_ms: int | None = None
        self.comments = 0
        self._client = client
        self._url = url

    async def connect(self) -> AsyncIterator[Event]:
        """The events of one connection; an answer that is no stream closes the source."""
        given = {"last-event-id": self.last_id} if self.last_id else {}
        headers = {"accept": "text/event-stream", "cache-control": "no-store", **given}
        async with self._client.stream("GET", self._url, headers=headers) as answer:
            self.closed = answer.status_code != 200
            if not self.closed:
                assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
                async for event in self._events(answer):
                    yield event

    async def _events(self, answer: httpx.Response) -> AsyncIterator[Event]:
        name, data = "", list[str]()
        async for line in _lines(answer):
            if not line:
                if data:
                    yield Event(name or "message", "\n".join(data), self.last_id)
                name, data = "", []
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not field:
                self.comments += 1
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif field == "id" and "\0" not in value:
                self.last_id = value
            elif field == "retry" and value.isdecimal():
                self.retry_ms = int(value)


async def _lines(answer: httpx.Response) -> AsyncIterator[str]:
    """Whole lines as they come; they end with CRLF, LF or CR, and with nothing else that Unicode has."""
    held = b""
    async for piece in answer.aiter_bytes():
        *whole, held = re.split(rb"\r\n|\n|\r(?=.)", held + piece)
        for line in whole:
            yield line.decode()
