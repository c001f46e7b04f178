"""What Batchyard is measured against: the barest server of each kind. `python -m tests.bench.controls rest`"""

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop
from aiohttp import web

ECHO = "/bench.Echo/Echo"
BLOCK = 256 << 10


async def rest() -> None:
    """aiohttp's server: GET answers with a JSON object of a batch's size, POST with the JSON that it gets."""
    shown = {f"member_{n}": f"value {n}" for n in range(30)}

    async def get(_: web.Request) -> web.Response:
        return web.json_response(shown)

    async def post(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    app = web.Application()
    app.add_routes([web.get("/", get), web.post("/", post)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, _listener("rest")).start()
    await asyncio.Event().wait()


async def unary() -> None:
    """A grpc.aio server whose one method gives back its bytes."""

    async def echo(request: bytes, _: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("bench.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"unary on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def copy(path: Path) -> None:
    """A direct copy, one connection at a time: `w`, then bytes, end up synced in `path`; `r` gets them back."""
    bound = _listener("copy")
    bound.listen()
    while True:
        connection, _ = bound.accept()
        with connection:
            _take(connection, path) if connection.recv(1) == b"w" else _give(connection, path)


def _take(connection: socket.socket, path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while data := connection.recv(BLOCK):
            file.write(data)
        os.fsync(file.fileno())
    connection.sendall(b"!")


def _give(connection: socket.socket, path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while data := file.read(BLOCK):
            connection.sendall(data)


def _listener(name: str) -> socket.socket:
    """A socket on a free port, which stdout names."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    print(f"{name} on 127.0.0.1:{bound.getsockname()[1]}", flush=True)
    return bound


def main() -> None:
    kind, *rest_of = sys.argv[1:]
    if kind == "copy":
        copy(Path(rest_of[0]))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(rest() if kind == "rest" else unary())


if __name__ == "__main__":
    main()
