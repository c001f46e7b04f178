"""Ctrl-C at any moment: no traceback, exit code 130, what is stored by then, and a command that goes on from there."""

import asyncio
import os
import shlex
import sys
from asyncio.subprocess import PIPE
from functools import partial
from pathlib import Path

import pytest
from tests.fakes import Gate, completion, fake_endpoint
from tests.harness import chat_line, chat_lines, jsonl, service, settings_for, until
from tests.people import Person
from tests.rest.conftest import opened
from tests.sockets import held_port

from batchyard.service.config.settings import LocalSettings

BIG = [chat_line(f"request-{number}", "x" * 100_000) for number in range(30)]
# Sends itself Ctrl-C when a module is about to be imported, as a person might.
AT_IMPORT = """
import importlib.abc, os, runpy, signal, sys

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
MODULE = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupting())
runpy.run_module("batchyard.cli.main", run_name="__main__", alter_sys=True)
"""

# The same at the Nth call of a function of ours.
AT_CALL = """
import os, runpy, signal, sys

def count(frame, event, _):
    global left
    if event == "call" and "batchyard/cli" in frame.f_code.co_filename:
        left -= 1
        if not left:
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
left = int(sys.argv.pop(1)) + 1  # since the module itself is a call
sys.setprofile(count)
runpy.run_module("batchyard.cli.main", run_name="__main__", alter_sys=True)
"""


async def ran_with(script: str, *arguments: str, folder: Path, **environ: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", script, *arguments),
        cwd=folder,
        env={**os.environ, **environ},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(60):
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, err.decode()


class TestBeforeTheWork:
    @pytest.mark.parametrize(
        ("command", "module"),
        [
            ("list", "threading"), ("list", "argparse"), ("list", "batchyard.cli.people"), ("list", "grpc"),
            ("list", "google.rpc"),
            ("serve", "batchyard.cli.commands"), ("serve", "httptools"), ("serve", "sqlalchemy"), ("shim", "starlette"),
            ("check-config", "yaml"), ("backup x", "batchyard.cli.backup"), ("submit mydata.jsonl --wait", "ssl"),
        ],
    )  # fmt: skip
    async def test_it_is_one_line(self, tmp_path: Path, command: str, module: str) -> None:
        environ = {"BATCHYARD_LOCAL__ECHO": "true", "BATCHYARD_PORT": "0", "BATCHYARD_GRPC_PORT": "0"}
        ran = await ran_with(AT_IMPORT, module, *command.split(), folder=tmp_path, **environ)
        assert ran == (130, "batchyard: interrupted\n")
        assert list(tmp_path.iterdir()) == []


SWALLOWED = """
import os, signal, threading
from batchyard.cli import interrupts

class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts.leave_at_once()
interrupts.catch()
try:
    Deaf()
    threading.Event().wait(30)
except KeyboardInterrupt:
    os.write(2, b"heard\\n")
"""


async def test_one_that_comes_where_nothing_may_be_raised_is_not_lost(tmp_path: Path) -> None:
    assert await ran_with(SWALLOWED, folder=tmp_path) == (0, "heard\n")


class TestASubmission:
    async def test_in_its_upload_has_stored_nothing(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path / "served")) as (server, _):
            person = Person(server.grpc_port, tmp_path)
            submit = ("submit", "-", "--wait", "-o", "my results.jsonl")
            async with person.started(*submit, stdin=jsonl(chat_lines(5000)), ends=False) as command:
                begun = tmp_path / "served/data/store/files"
                await until(partial(asyncio.to_thread, begun.exists), bool)
                command.interrupt()
                ran = await command.ended()
        assert (ran.code, ran.out) == (130, "")
        again = "nothing is stored; again: batchyard submit - --wait -o 'my results.jsonl'\n"
        assert ran.err == f"{again}batchyard: interrupted\n"

    async def test_that_waits_for_a_service_has_stored_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "mydata.jsonl").write_bytes(jsonl(chat_lines(1)))
        with held_port() as port:
            async with Person(port, tmp_path).started("list", "--patience", "60") as command:
                await command.said("trying again")
                command.interrupt()
                ran = await command.ended()
        assert (ran.code, ran.err.splitlines()[-1]) == (130, "batchyard: interrupted")

    async def test_that_is_waited_for_goes_on_by_the_command_that_is_told(self, tmp_path: Path) -> None:
        gate = Gate()

        async def held(body: dict[str, object], _: int) -> object:
            await gate.passed()
            return completion(body)

        (tmp_path / "mydata.jsonl").write_bytes(jsonl(chat_lines(3)))
        async with fake_endpoint(held) as endpoint:  # type: ignore[arg-type]
            local = LocalSettings(api_base=endpoint.api_base)
            async with service(settings_for(tmp_path / "served", local=local)) as (server, _):
                person = Person(server.grpc_port, tmp_path)
                submit = ("submit", "mydata.jsonl", "--wait", "-o", "r.jsonl", "--errors", "e.jsonl")
                async with person.started(*submit, "--server", f"localhost:{server.grpc_port}") as command:
                    await command.said("in_progress")
                    command.interrupt()
                    ran = await command.ended()
                assert ran.code == 130
                assert not (tmp_path / "r.jsonl").exists()
                (told,) = (line for line in ran.err.splitlines() if line.startswith("to wait for its results: "))
                program, *arguments = shlex.split(told.partition(": ")[2])
                assert (program, arguments[0]) == ("batchyard", "results")
                gate.open()
                assert (await person.run(*arguments, BATCHYARD_SERVICE_ADDRESS="nowhere.invalid:1")).code == 0
        assert (tmp_path / "r.jsonl").read_bytes().count(b"\n") == 3

    async def test_in_its_download_leaves_the_old_file_and_says_how_to_have_the_new(self, tmp_path: Path) -> None:
        (tmp_path / "r.jsonl").write_text("old")
        async with opened(tmp_path / "served") as door:
            batch = await door.run(BIG)
            person = Person(door.server.grpc_port, tmp_path)
            ran = None
            reader = tmp_path / "pipe"
            await asyncio.to_thread(os.mkfifo, reader)
            async with person.started("results", batch["id"], "-o", "pipe") as command:
                pipe = await asyncio.to_thread(reader.open, "rb")  # and nobody reads what else comes
                await asyncio.to_thread(pipe.read, 1)
                command.interrupt()
                ran = await command.ended()
                pipe.close()
        assert ran.code == 130
        assert f"to have its results: batchyard results {batch['id']} -o pipe\n" in ran.err
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
        assert (tmp_path / "r.jsonl").read_text() == "old"


@pytest.mark.once
@pytest.mark.parametrize("calls", [8, 12, 16, 24, 32, 40, 56, 64, 80, 96, 112, 128, 160])
async def test_at_any_call_of_a_whole_job_there_is_no_traceback(tmp_path: Path, calls: int) -> None:
    (tmp_path / "mydata.jsonl").write_bytes(jsonl(BIG))
    async with service(settings_for(tmp_path / "served")) as (one, _):
        person = Person(one.grpc_port, tmp_path)
        submit = ("submit", "mydata.jsonl", "--wait", "-o", "r.jsonl", "--errors", "e.jsonl")
        code, err = await ran_with(AT_CALL, str(calls), *submit, folder=tmp_path, **person.environ)
    assert (code, "Traceback" in err, "Exception ignored" in err) == (130, False, False), err
    assert err.endswith("batchyard: interrupted\n")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
