"""The commands for people where something goes wrong on the way: restarts, broken connections, Ctrl-C, nobody there."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.fakes import sluiced
from tests.harness import ENDED, Client, chat_line, chat_lines, jsonl, service, settings_for, until
from tests.people import Person, Started, breaking
from tests.processes import batchyard, configure
from tests.sockets import held_port

from batchyard.service.config.settings import LocalSettings
from batchyard.service.server import Server
from batchyard.v1 import Batch, File, ListBatchesRequest, ListFilesRequest

SLOW = LocalSettings(echo=True, echo_delay_ms=60_000)
BIG = [chat_line(f"request-{number}", "x" * 100_000) for number in range(30)]


@asynccontextmanager
async def big_batch(folder: Path) -> AsyncIterator[tuple[int, Client, Batch]]:
    """A service with a completed batch of 3 MB of results; its port first."""
    async with service(settings_for(folder)) as (server, client):
        yield server.grpc_port, client, await client.run(BIG)


@asynccontextmanager
async def uploading(server: Server, folder: Path) -> AsyncIterator[Started]:
    """A command in the midst of an upload from a stdin that doesn't end."""
    person = Person(server.grpc_port, folder)
    upload = person.started("upload", "-", "--purpose", "user_data", stdin=b"x" * 600_000, ends=False)
    async with upload as command:
        begun = folder / "served/data/store/files"
        await until(partial(asyncio.to_thread, begun.exists), bool)
        yield command


async def files_of(client: Client) -> list[File]:
    return list((await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)).data)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


class TestRestart:
    async def test_a_wait_goes_on_over_a_killed_and_a_new_service(self, tmp_path: Path) -> None:
        configure(tmp_path, echo=True, echo_delay_ms=50, max_concurrency=4, chunk_lines=10)
        (tmp_path / "mydata.jsonl").write_bytes(jsonl(chat_lines(100)))
        with held_port() as port, batchyard(tmp_path, "service", "--grpc-port", str(port)) as first:
            await first.port()
            person = Person(port, tmp_path)
            async with person.started("submit", "mydata.jsonl", "--wait", "-o", "results.jsonl") as command:
                await command.said("in_progress")
                first.kill()
                await command.said("trying again")
                with batchyard(tmp_path, "service", "--grpc-port", str(port)):
                    ran = await command.ended()
        assert ran.code == 0, ran.err
        assert (tmp_path / "results.jsonl").read_bytes().count(b"\n") == 100

    async def test_a_drain_ends_no_watch_either(self, tmp_path: Path) -> None:
        with held_port() as port:
            settings = settings_for(tmp_path, grpc_port=port, local=SLOW)
            async with service(settings) as (server, client):
                file = await client.upload(jsonl(chat_lines(2)))
                batch = await client.create(file.id)
                watch = Person(port, tmp_path).started("watch", batch.id)
                async with watch as command:
                    await command.said("in_progress")
                    await server.drain(1)
                    await command.said("trying again")
                    async with service(settings_for(tmp_path / "other", grpc_port=port)):
                        ran = await command.ended()
        assert ran.code == 1  # another service, which doesn't know it
        assert "No batch found" in ran.err

    async def test_patience_is_bounded_and_says_how_to_go_on(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path, local=SLOW)) as (server, client):
            file = await client.upload(jsonl(chat_lines(1)))
            batch = await client.create(file.id)
            async with Person(server.grpc_port, tmp_path).started("watch", batch.id, "--patience", "0.5") as command:
                await command.said("in_progress")
                await server.drain(0)
                ran = await command.ended()
        assert ran.code == 1
        assert f"to follow it: batchyard watch {batch.id}\n" in ran.err


class TestWaiting:
    async def test_a_batch_that_waits_for_its_endpoint_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "mydata.jsonl").write_bytes(jsonl(chat_lines(3)))
        with held_port() as nobody:
            local = LocalSettings(api_base=f"http://127.0.0.1:{nobody}/v1")
            async with service(settings_for(tmp_path / "served", local=local)) as (server, _):
                person = Person(server.grpc_port, tmp_path)
                async with person.started("submit", "mydata.jsonl", "--wait", "-o", "results.jsonl") as command:
                    await command.said("is waiting for the endpoint: it can't be reached\n")
        assert "0 of 0" not in command.err


class TestDownload:
    async def test_one_that_breaks_is_resumed_where_it_broke(self, tmp_path: Path) -> None:
        async with big_batch(tmp_path / "served") as (port, client, batch), breaking(port, 1_000_000) as broken:
            ran = await Person(broken, tmp_path).run("results", batch.id, "-o", "results.jsonl")
            assert ran.code == 0, ran.err
            assert "trying again" in ran.err
            assert (tmp_path / "results.jsonl").read_bytes() == await client.read(batch.output_file_id)

    async def test_to_stdout_it_has_no_seam_either(self, tmp_path: Path) -> None:
        async with big_batch(tmp_path / "served") as (port, client, batch), breaking(port, 1_000_000) as broken:
            ran = await Person(broken, tmp_path).run("results", batch.id)
            assert ran.code == 0, ran.err
            assert ran.out.encode() == await client.read(batch.output_file_id)

    async def test_one_that_fails_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "results.jsonl").write_text("old")
        async with big_batch(tmp_path / "served") as (port, _, batch), breaking(port, 1_000_000) as broken:
            ran = await Person(broken, tmp_path).run("results", batch.id, "-o", "results.jsonl", "--patience", "0")
        assert (ran.code, ran.err.count("no answer from")) == (1, 1)
        assert left_in(tmp_path) == ["results.jsonl"]
        assert (tmp_path / "results.jsonl").read_text() == "old"

    async def test_a_full_disk_is_one_line(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path / "served")) as (server, client):
            batch = await client.run(chat_lines(1))
            ran = await Person(server.grpc_port, tmp_path).run("results", batch.id, "-o", "/dev/full", "--quiet")
        assert (ran.code, ran.err) == (1, "batchyard: /dev/full: No space left on device\n")


class TestUpload:
    async def test_one_that_breaks_is_one_line_and_leaves_nothing(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path / "served")) as (server, _), uploading(server, tmp_path) as command:
            await server.drain(0)
            ran = await command.ended()
        assert (ran.code, ran.out) == (1, "")
        assert re.match(r"batchyard: no answer from the service at localhost:\d+: .*\n", ran.err)
        assert "Traceback" not in ran.err
        async with service(settings_for(tmp_path / "served")) as (_, client):
            assert await files_of(client) == []

    async def test_a_refusal_in_its_midst_is_the_services_own(self, tmp_path: Path) -> None:
        (tmp_path / "big.jsonl").write_bytes(b"{" * 30_000_000)
        async with service(settings_for(tmp_path / "served")) as (server, client):
            person = Person(server.grpc_port, tmp_path)
            ran = await person.run("upload", "big.jsonl", "--purpose", "cats")
            assert (ran.code, ran.err.count("\n")) == (1, 1)
            assert ran.err.startswith("batchyard: 'cats' is not one of")
            assert await files_of(client) == []


class TestCreate:
    async def test_a_lost_answer_makes_no_second_batch(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path / "served")) as (server, client):
            file = await client.upload(jsonl(chat_lines(1)))
            async with breaking(server.grpc_port, 250) as broken:
                ran = await Person(broken, tmp_path).run("submit", file.id, "--endpoint", "/v1/chat/completions")
            assert ran.code == 0, ran.err
            assert "trying again" in ran.err
            (batch,) = (await client.stub.ListBatches(ListBatchesRequest(), metadata=client.metadata)).data
            assert ran.out == f"{batch.id}\n"


class TestInterrupt:
    async def test_a_batch_that_is_waited_for_goes_on(self, tmp_path: Path) -> None:
        (tmp_path / "mydata.jsonl").write_bytes(jsonl(chat_lines(1)))
        async with service(settings_for(tmp_path / "served", local=SLOW)) as (server, client):
            person = Person(server.grpc_port, tmp_path)
            async with person.started("submit", "mydata.jsonl", "--wait", "-o", "results.jsonl") as command:
                await command.said("in_progress")
                command.interrupt()
                code, out, err = await command.ended()
            assert code == 130
            assert f"{out.strip()} goes on; to follow it: batchyard watch {out.strip()}\n" in err
            assert f"to wait for its results: batchyard results {out.strip()} --wait -o results.jsonl\n" in err
            assert (await client.get(out.strip())).status not in ENDED
        assert left_in(tmp_path) == ["mydata.jsonl"]

    async def test_an_upload_leaves_nothing(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path / "served")) as (server, client):
            async with uploading(server, tmp_path) as command:
                command.interrupt()
                ran = await command.ended()
            again = "nothing is stored; again: batchyard upload - --purpose user_data\n"
            assert (ran.code, ran.out, ran.err) == (130, "", f"{again}batchyard: interrupted\n")
            assert await files_of(client) == []


class TestNobodyThere:
    @pytest.mark.parametrize("command", [["list"], ["watch", "batch_a"], ["upload", "mydata.jsonl"]])
    async def test_it_says_where_and_ends(self, tmp_path: Path, command: list[str]) -> None:
        (tmp_path / "mydata.jsonl").write_bytes(jsonl(chat_lines(1)))
        with held_port() as port:
            code, out, err = await Person(port, tmp_path).run(*command, "--patience", "0.2", "--quiet")
        assert (code, out) == (1, "")
        assert f"batchyard: no answer from the service at localhost:{port}: Connection refused\n" in err

    async def test_an_address_in_the_environment_that_is_none_is_one_line(self, tmp_path: Path) -> None:
        ran = await Person(1, tmp_path).run("list", BATCHYARD_SERVICE_ADDRESS="nowhere")
        wrong = "batchyard: BATCHYARD_SERVICE_ADDRESS: expected HOST:PORT or unix:PATH, got 'nowhere'\n"
        assert (ran.code, ran.err) == (1, wrong)

    async def test_a_batch_that_nobody_knows_is_one_line(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (server, _):
            person = Person(server.grpc_port, tmp_path)
            for command in ("watch", "results", "cancel"):
                code, _, err = await person.run(command, "batch_none")
                assert code == 1
                assert re.fullmatch(r"batchyard: No batch found with id 'batch_none'\. \(request id \S+\)\n", err)


class TestTerminal:
    async def test_bars_show_the_upload_the_lines_and_the_download(self, tmp_path: Path) -> None:
        (tmp_path / "mydata.jsonl").write_bytes(jsonl(BIG))
        third = re.compile(r"in_progress \[#{8}\.{16}\] 10 of 30 lines")
        async with sluiced() as (sluice, fake):

            def seen(shown: str) -> None:
                sluice.allow(30 if third.search(shown) else 10)

            local = LocalSettings(api_base=fake.api_base, max_concurrency=10, chunk_lines=10)
            async with service(settings_for(tmp_path / "served", local=local)) as (server, _):
                person = Person(server.grpc_port, tmp_path, seen)
                shown = await person.run_on_terminal("submit", "mydata.jsonl", "--wait", "-o", "results.jsonl")
        assert re.search(r"upload \[#{24}\] 3\.\d of 3\.\d MB", shown)
        assert third.search(shown)
        assert re.search(r"download \[#{24}\] 3\.\d of 3\.\d MB", shown)
        last = shown.rpartition("\x1b[K")[2]
        assert "[" not in last

    @pytest.mark.parametrize(("options", "terminal"), [(["--quiet"], "xterm"), ([], "dumb")])
    async def test_there_is_no_bar_where_none_is_wanted(
        self, tmp_path: Path, options: list[str], terminal: str
    ) -> None:
        (tmp_path / "mydata.jsonl").write_bytes(jsonl(chat_lines(3)))
        async with service(settings_for(tmp_path / "served")) as (server, _):
            person = Person(server.grpc_port, tmp_path)
            shown = await person.run_on_terminal("submit", "mydata.jsonl", "--wait", "-o", "r", *options, TERM=terminal)
        assert "\x1b" not in shown
        assert bool(shown) == (not options)
