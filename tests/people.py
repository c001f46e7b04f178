"""The command as people run it against a service: its words, its exit code, and what a terminal shows."""

import asyncio
import json
import os
import pty
import signal
import sys
import termios
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.harness import KEY, PATIENCE

# A shell starts what it runs in the background deaf to Ctrl-C, and so would be every command below it.
COMMAND = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("batchyard.cli.main", run_name="__main__", alter_sys=True)
"""


class Ran(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    def objects(self) -> list[dict[str, Any]]:
        """The lines of stdout as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


class Started:
    """A command that runs; `err` collects what it wrote to stderr so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.err = ""
        self._process = process

    async def said(self, text: str) -> None:
        """Waits for a line of stderr that has this text."""
        assert self._process.stderr
        async with asyncio.timeout(PATIENCE):
            while text not in self.err:
                line = await self._process.stderr.readline()
                assert line, f"ended without {text!r}: {self.err}"
                self.err += line.decode()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    async def ended(self) -> Ran:
        streams = [stream for stream in (self._process.stderr, self._process.stdout) if stream]
        async with asyncio.timeout(PATIENCE):
            err, *out = await asyncio.gather(*(stream.read() for stream in streams))
            code = await self._process.wait()
        self.err += err.decode()
        assert "Traceback" not in self.err
        return Ran(code, b"".join(out).decode(), self.err)


class Person:
    """Runs `batchyard` in `folder`, with an environment that says which service, and the key.

    `seen` is told what is on the terminal, each time that there is more.
    """

    def __init__(self, port: int, folder: Path, seen: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self._seen = seen
        self.environ = {"BATCHYARD_SERVICE_ADDRESS": f"localhost:{port}", "BATCHYARD_API_KEY": KEY}

    async def run(self, *arguments: str, stdin: bytes = b"", stdout: int = PIPE, **environ: str) -> Ran:
        """Runs a command to its end."""
        async with self.started(*arguments, stdin=stdin, ends=True, stdout=stdout, **environ) as command:
            return await command.ended()

    @asynccontextmanager
    async def started(
        self, *arguments: str, stdin: bytes = b"", ends: bool = True, stdout: int = PIPE, **environ: str
    ) -> AsyncIterator[Started]:
        """Runs a command until the context ends; where stdin doesn't end, more seems to come."""
        process = await self._spawn(arguments, environ, stdout, PIPE)
        assert process.stdin
        process.stdin.write(stdin)
        if ends:
            process.stdin.close()
        try:
            yield Started(process)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def run_on_terminal(
        self, *arguments: str, both: bool = False, code: int = 0, columns: int = 80, **environ: str
    ) -> str:
        """What the terminal has got when the command has ended with `code`; stderr is one, stdout only with `both`."""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
        loop = asyncio.get_running_loop()

        def tell(shown: str) -> None:
            loop.call_soon_threadsafe(self._seen, shown)

        reading = asyncio.create_task(asyncio.to_thread(_read_terminal, ours, tell))
        try:
            process = await self._spawn(arguments, {"TERM": "xterm", **environ}, theirs if both else PIPE, theirs)
        finally:
            os.close(theirs)
        async with asyncio.timeout(PATIENCE):
            await process.communicate()
            shown = await reading
        assert process.returncode == code, shown
        return shown

    async def _spawn(
        self, arguments: tuple[str, ...], environ: dict[str, str], stdout: int, stderr: int
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", COMMAND, *arguments),
            cwd=self.folder,
            env={**os.environ, **self.environ, **environ},
            stdin=PIPE,
            stdout=stdout,
            stderr=stderr,
        )


def _read_terminal(end: int, tell: Callable[[str], None]) -> str:
    read = b""
    with suppress(OSError), open(end, "rb", buffering=0) as terminal:  # EIO: the other end is closed
        while piece := terminal.read(4096):
            read += piece
            tell(read.decode(errors="ignore"))
    return read.decode()


@asynccontextmanager
async def breaking(port: int, after: int) -> AsyncIterator[int]:
    """A port that leads to `port`; its first connection breaks off after this many bytes of answers."""
    left = [after]
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: list[int] | None) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                if budget is not None:
                    budget[0] -= len(piece)
                    if budget[0] < 0:
                        break
                writer.write(piece)
                await writer.drain()
        writer.transport.abort()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget = left if left[0] >= 0 else None
        service_reader, service_writer = await asyncio.open_connection("127.0.0.1", port)
        ways = [carry(reader, service_writer, None), carry(service_reader, writer, budget)]
        tasks.update(asyncio.create_task(way) for way in ways)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
