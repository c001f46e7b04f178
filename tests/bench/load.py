"""The load: one request over and over on many connections at once, at next to no cost of its own."""

import asyncio
import re
import socket
from collections.abc import Iterable, Mapping
from statistics import quantiles
from time import perf_counter, process_time
from typing import Any, NamedTuple

from tests.bench.measure import cpu_seconds
from tests.processes import Process

HOST = "127.0.0.1"
IN_FLIGHT = 32

Headers = Mapping[str, str]
NO_HEADERS: Headers = {}

_LOOK_SECONDS = 0.005
_PATIENCE = 180.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_OK = re.compile(rb"HTTP/1\.1 200 ")


class Load(NamedTuple):
    """What was done: calls, the seconds that they took together and each, and the CPU of the watched, and ours."""

    calls: int
    seconds: float
    latencies: list[float]
    cpu: float
    own_cpu: float

    @property
    def rate(self) -> float:
        return self.calls / self.seconds

    @property
    def cpu_ms(self) -> float:
        """A call's."""
        return 1000 * self.cpu / self.calls

    @property
    def own_cpu_ms(self) -> float:
        """A call's, of this process."""
        return 1000 * self.own_cpu / self.calls

    def percentile_ms(self, percent: int) -> float:
        return 1000 * quantiles(self.latencies, n=100)[percent - 1]


def request(method: str, path: str, headers: Headers = NO_HEADERS, body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    of_body = {"content-type": "application/json", "content-length": str(len(body))} if body else {}
    given = {"host": HOST, **of_body, **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def load(port: int, asked: bytes, at_once: int, seconds: float, watched: Iterable[Process] = ()) -> Load:
    """Asks for so many seconds, on `at_once` connections that have each been asked once before.

    Fails where an answer is not a 200.
    """
    loop = asyncio.get_running_loop()
    watched = tuple(watched)
    opened = [await loop.create_connection(lambda: _Connection(asked), HOST, port) for _ in range(at_once)]
    connections = [connection for _, connection in opened]
    try:
        await asyncio.gather(*(one.ask_until(0) for one in connections))
        for one in connections:
            one.latencies.clear()
        cpu, own, began = cpu_seconds(watched), process_time(), perf_counter()
        await asyncio.gather(*(one.ask_until(began + seconds) for one in connections))
        took = perf_counter() - began
        cpu, own = cpu_seconds(watched) - cpu, process_time() - own
    finally:
        for transport, _ in opened:
            transport.abort()
    latencies = [latency for one in connections for latency in one.latencies]
    return Load(len(latencies), took, latencies, cpu, own)


def free_port() -> int:
    """One for a server that has to be told."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port


async def answered(port: int, path: str) -> None:
    """Returns when a GET of this path is answered 200."""
    wire = request("GET", path)
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                await asked(port, wire)
            except (OSError, AssertionError):  # not there, or not ready
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                return


async def asked(port: int, wire: bytes) -> bytes:
    """The body of the answer to one request."""
    _, connection = await asyncio.get_running_loop().create_connection(lambda: _Connection(wire), HOST, port)
    await connection.ask_until(0)
    connection.close()
    return connection.body


class _Connection(asyncio.Protocol):
    """One request at a time, at least one, until the time is over."""

    def __init__(self, asked: bytes) -> None:
        self.latencies: list[float] = []
        self.body = b""
        self._asked = asked
        self._received = b""
        self._end = 0.0
        self._done: asyncio.Future[None]

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection was closed")

    def close(self) -> None:
        self._transport.abort()

    async def ask_until(self, end: float) -> None:
        self._end = end
        self._done = asyncio.get_running_loop().create_future()
        self._ask()
        await self._done

    def _ask(self) -> None:
        self._began = perf_counter()
        self._transport.write(self._asked)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        head, separator, self.body = self._received.partition(_HEAD_END)
        if not separator:
            return
        length = _LENGTH.search(head)
        if len(self.body) < int(length[1]) if length else not self.body.endswith(_LAST_CHUNK):
            return
        now = perf_counter()
        self.latencies.append(now - self._began)
        whole, self._received = self._received, b""
        if not _OK.match(head):
            self._fail(whole.decode())
        elif now < self._end:
            self._ask()
        else:
            self._done.set_result(None)

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(AssertionError(why))
