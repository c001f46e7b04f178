"""Files that are moved at next to no cost of the mover's own: blocking sockets, in threads, and nothing kept."""

import asyncio
import json
import re
import socket
from time import perf_counter

from tests.bench import asking
from tests.bench.controls import BLOCK
from tests.bench.load import HOST, Headers, request

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_PATIENCE = 120


class Files:
    """Where files go over REST. `download` reads what `upload` wrote last, and must get `size` bytes."""

    def __init__(self, port: int, data: bytes, headers: Headers, prefix: str = "/v1") -> None:
        self.size = len(data)
        self._port = port
        self._data = memoryview(data)
        self._path = f"{prefix}/files"
        self._headers = headers
        self._file_id = ""

    async def upload(self) -> float:
        """The seconds that it took."""
        return await asyncio.to_thread(self._upload)

    async def download(self) -> float:
        return await asyncio.to_thread(self._download)

    def _upload(self) -> float:
        head, tail = asking.FORM_HEAD, asking.FORM_TAIL
        length = str(len(head) + self.size + len(tail))
        form = request("POST", self._path, {**self._headers, **asking.FORM, "content-length": length})
        began = perf_counter()
        with socket.create_connection((HOST, self._port), _PATIENCE) as connection:
            connection.sendall(form + head)
            for start in range(0, self.size, BLOCK):
                connection.sendall(self._data[start : start + BLOCK])
            connection.sendall(tail)
            body = _answer(connection)
        took = perf_counter() - began
        file = json.loads(body)
        assert file["bytes"] >= self.size, file
        self._file_id = file["id"]
        return took

    def _download(self) -> float:
        into = bytearray(BLOCK)
        began = perf_counter()
        with socket.create_connection((HOST, self._port), _PATIENCE) as connection:
            connection.sendall(request("GET", f"{self._path}/{self._file_id}/content", self._headers))
            head, came = _head(connection)
            length = int(_found(_LENGTH, head))
            left = length - len(came)
            while left and (count := connection.recv_into(into)):
                left -= count
        took = perf_counter() - began
        assert length - left == self.size, f"{length - left} of {self.size} bytes came"
        return took


class Copy:
    """The direct copy: a plain socket on one side, a synced file on the other."""

    def __init__(self, port: int, data: bytes) -> None:
        self.size = len(data)
        self._port = port
        self._data = memoryview(data)

    async def upload(self) -> float:
        return await asyncio.to_thread(self._upload)

    async def download(self) -> float:
        return await asyncio.to_thread(self._download)

    def _upload(self) -> float:
        began = perf_counter()
        with socket.create_connection((HOST, self._port), _PATIENCE) as connection:
            connection.sendall(b"w")
            for start in range(0, self.size, BLOCK):
                connection.sendall(self._data[start : start + BLOCK])
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b"!"
        return perf_counter() - began

    def _download(self) -> float:
        into, left, began = bytearray(BLOCK), self.size, perf_counter()
        with socket.create_connection((HOST, self._port), _PATIENCE) as connection:
            connection.sendall(b"r")
            while count := connection.recv_into(into):
                left -= count
        took = perf_counter() - began
        assert not left, f"{left} of {self.size} bytes did not come"
        return took


def _answer(connection: socket.socket) -> bytes:
    """The body of a small answer, which must be a 200."""
    head, body = _head(connection)
    if _CHUNKED.search(head):
        while not body.endswith(_LAST_CHUNK):
            body += _received(connection)
        return body.partition(b"\r\n")[2].rpartition(b"\r\n" + _LAST_CHUNK)[0]
    length = int(_found(_LENGTH, head))
    while len(body) < length:
        body += _received(connection)
    return body


def _head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of an answer, which must be a 200, and what came after it."""
    received = b""
    while _HEAD_END not in received:
        received += _received(connection)
    if not received.startswith(b"HTTP/1.1 200 "):
        raise AssertionError(received.decode(errors="replace"))
    head, _, rest = received.partition(_HEAD_END)
    return head, rest


def _found(pattern: re.Pattern[bytes], head: bytes) -> bytes:
    found = pattern.search(head)
    assert found, head
    return found[1]


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(BLOCK)
    assert data, "the connection was closed"
    return data
