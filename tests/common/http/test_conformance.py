"""RFC 9112 over raw sockets, at every door that speaks HTTP: REST and metrics, in clear text, over TLS, on a socket."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.authority import Authority
from tests.harness import KEY, until
from tests.processes import Process, batchyard

from .cases import CHUNKS, LAST, REFUSED, UNDERSTOOD, Case
from .wire import Answer, answers, request

PATIENCE = 30.0
PLAIN = ["REST", "REST on a socket", "metrics"]
SECURE = ["REST over TLS", "metrics over TLS"]
DOORS = [*PLAIN, *SECURE]
BETWEEN = 0.005  # seconds, so that pieces mostly come by themselves


@dataclass
class Door:
    """Where HTTP is served: how to connect, and a path that can be read and not be posted to."""

    connect: Callable[[], socket.socket]
    path: bytes

    def exchange(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """All that comes back for these pieces, each in a packet of its own, until the connection ends."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece.replace(b"/PATH", self.path))
                time.sleep(BETWEEN if len(pieces) > 1 else 0)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            came = bytearray()
            while data := connection.recv(65536):
                came += data
            return bytes(came)

    def answers(self, case: Case) -> list[Answer]:
        return answers(self.exchange(*case.pieces), *case.methods)


def _config(folder: Path, **own: Any) -> None:
    folder.mkdir()
    whole = {"default_provider": "local", "local": {"echo": True}, "metrics_port": 0, "log_format": "text", **own}
    (folder / "config.yaml").write_text(json.dumps({"general_settings": {"master_key": KEY}, "batchyard": whole}))


def _over_tcp(port: int, context: ssl.SSLContext | None = None) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname="localhost") if context else plain

    return connect


def _over_socket(path: Path) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        return connection

    return connect


def _port(running: Process, said: str) -> int:
    return asyncio.run(running.port(said))


async def _there(path: Path) -> None:
    async def look() -> bool:
        return path.exists()

    await until(look, bool)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    folder = tmp_path_factory.mktemp("doors")
    authority = Authority(folder)
    shown = authority.identity("server")
    _config(folder / "plain")
    _config(folder / "secure", tls={"cert_file": str(shown.cert), "key_file": str(shown.key)})
    _config(folder / "near", socket=str(folder / "rest.sock"))
    trusting = ssl.create_default_context(cafile=str(authority.ca))
    with ExitStack() as stack:
        plain, secure, _ = [
            stack.enter_context(batchyard(folder / name, "serve")) for name in ("plain", "secure", "near")
        ]
        health, metrics = b"/health/liveliness", b"/metrics"
        asyncio.run(_there(folder / "rest.sock"))
        yield {
            "REST": Door(_over_tcp(_port(plain, "REST on")), health),
            "REST over TLS": Door(_over_tcp(_port(secure, "REST on"), trusting), health),
            "REST on a socket": Door(_over_socket(folder / "rest.sock"), health),
            "metrics": Door(_over_tcp(_port(plain, "metrics on")), metrics),
            "metrics over TLS": Door(_over_tcp(_port(secure, "metrics on"), trusting), metrics),
        }


@pytest.fixture(params=DOORS)
def door(doors: dict[str, Door], request: pytest.FixtureRequest) -> Door:
    return doors[request.param]


@pytest.mark.parametrize("case", UNDERSTOOD, ids=lambda case: case.name)
def test_it_is_understood(door: Door, case: Case) -> None:
    assert [answer.status for answer in door.answers(case)] == list(case.statuses)


def test_a_request_may_come_one_byte_at_a_time(door: Door) -> None:
    whole = LAST.replace(b"/PATH", door.path)
    (answer,) = answers(door.exchange(*(whole[at : at + 1] for at in range(len(whole)))))
    assert answer.status == 200


@pytest.mark.parametrize("case", [*REFUSED, *CHUNKS], ids=lambda case: case.name)
@pytest.mark.parametrize("name", PLAIN)
def test_it_is_refused_in_the_envelope_and_nothing_behind_it_is_answered(
    doors: dict[str, Door], name: str, case: Case
) -> None:
    check_refusal(doors[name], case)


@pytest.mark.parametrize("name", SECURE)
def test_it_is_refused_over_tls_too(doors: dict[str, Door], name: str) -> None:
    """All at once: TLS can't be closed by half, so that each ends only when the server no longer waits."""
    for cases, at_once in ((REFUSED, len(REFUSED)), (CHUNKS, 6)):  # where 9 are too many
        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(partial(check_refusal, doors[name]), cases))


def check_refusal(door: Door, case: Case) -> None:
    """Exactly one answer, which is the case's."""
    (answer,) = door.answers(case)
    assert (case.name, answer.status, answer.headers["connection"]) == (case.name, case.statuses[0], "close")
    assert answer.error()["type"] == "invalid_request_error"


def test_no_answer_to_http_1_0_comes_in_chunks(door: Door) -> None:
    came = door.exchange(b"GET /PATH HTTP/1.0\r\n\r\n")
    assert came.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in came.lower()


@pytest.mark.parametrize("name", PLAIN)
def test_who_has_shut_its_own_side_is_answered(doors: dict[str, Door], name: str) -> None:
    whole = request(b"GET /PATH HTTP/1.1")
    came = answers(doors[name].exchange(whole, whole, half_close=True))
    assert [answer.status for answer in came] == [200, 200]


@pytest.mark.parametrize("name", [name for name in DOORS if name.startswith("REST")])
def test_a_large_body_is_refused_before_it_is_read_and_the_client_reads_why(doors: dict[str, Door], name: str) -> None:
    key, form = b"Authorization: Bearer wrong", b"Content-Type: multipart/form-data; boundary=x"
    body = b"x" * (8 << 20)
    head = request(b"POST /v1/files HTTP/1.1", key, form, b"Content-Length: %d" % len(body))
    (answer, *_) = answers(doors[name].exchange(head, body, LAST))
    assert (answer.status, answer.error()["code"]) == (401, "invalid_api_key")
