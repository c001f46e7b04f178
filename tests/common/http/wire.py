"""Requests as bytes, and the answers to them as h11 reads them."""

import json
from dataclasses import dataclass
from typing import Any

import h11

HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"


@dataclass
class Answer:
    """An answer; those of the 100s count too."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    def error(self) -> dict[str, Any]:
        """The error of an answer that must be one, in the envelope and with a request id."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"]
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)


def answers(data: bytes, *methods: str) -> list[Answer]:
    """All answers in `data`, to requests with these methods, GET from there on. The last may end with the bytes."""
    came: list[Answer] = []
    asked = iter(methods)
    while data:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=next(asked, "GET"), target="/", headers=[("host", "localhost")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                client.receive_data(b"")
            elif isinstance(event, h11.Response | h11.InformationalResponse):
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                came.append(Answer(event.status_code, headers))
            elif isinstance(event, h11.Data):
                came[-1].body += event.data
        data = client.trailing_data[0]
    return came


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """A request with a Host."""
    return line + b"\r\n" + HOST + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body
