"""The command as a user runs it: in a process of its own, judged by its output, its exit code and what it serves."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.harness import plain_client

DEVELOPMENT = Path(__file__).parents[2] / "service" / "batchyard" / "cli" / "development.yaml"
KEY = {"authorization": "Bearer sk-1234"}
SECONDS = 60


class Command:
    """A running `batchyard`, and what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.written = ""

    async def said(self, pattern: str) -> re.Match[str]:
        """The first line that `pattern` is found in."""
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while line := (await self.process.stderr.readline()).decode():
                self.written += line
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"ended without {pattern!r}:\n{self.written}")

    async def ended(self) -> int:
        """Its exit code."""
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS):
            self.written += (await self.process.stderr.read()).decode()
            return await self.process.wait()


def _environment(environ: dict[str, str]) -> dict[str, str]:
    ours = ("BATCHYARD_", "LITELLM_", "OPENAI_", "AZURE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | environ


@asynccontextmanager
async def running(*arguments: str, **environ: str) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "batchyard.cli.main", *arguments),
        env=_environment(environ),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ran(*arguments: str, **environ: str) -> tuple[int | None, str, str]:
    """The exit code, stdout and stderr of a command that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "batchyard.cli.main", *arguments),
        env=_environment(environ),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


HALVES = ["yaml", "uvloop", "alembic", "sqlalchemy", "httptools", "starlette", "grpc_health", "obstore", "httpx"]
BARE = """
import importlib.abc, runpy, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

HIDDEN = sys.argv[1].split(",")
sys.meta_path.insert(0, Hidden())
sys.argv[:2] = ["batchyard"]
runpy.run_module("batchyard.cli.main", run_name="__main__")
"""


async def ran_bare(hidden: list[str], *arguments: str) -> tuple[int | None, str]:
    """The exit code and stderr of a command that can't import the packages `hidden`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", BARE, ",".join(hidden), *arguments),
        env=_environment({}),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        _, err = await process.communicate()
    return process.returncode, err.decode()


@pytest.fixture
def local(tmp_path: Path) -> list[str]:
    """Options for a server on free ports with the development configuration and data of its own."""
    return ["--config", str(DEVELOPMENT), "--port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "data")]


@pytest.fixture
def taken() -> Iterator[str]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield str(other.getsockname()[1])


BOTH = r"REST on (http://127\.0\.0\.1:\d+), gRPC on (127\.0\.0\.1:\d+)"


class TestServe:
    async def test_it_says_where_it_listens_and_serves_there(self, local: list[str]) -> None:
        async with running("serve", *local) as command:
            rest, rpc = (await command.said(BOTH)).groups()
            assert "local (echo)" in command.written
            assert str(DEVELOPMENT) in command.written
            async with plain_client(base_url=rest, timeout=SECONDS) as client:
                assert (await client.get("/health/readiness")).json() == {"status": "ready"}
                assert (await client.get("/v1/batches")).status_code == 401
                assert (await client.get("/v1/batches", headers=KEY)).json()["data"] == []
            async with grpc.aio.insecure_channel(rpc) as channel:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def test_an_uploaded_file_comes_back(self, local: list[str]) -> None:
        async with running("serve", *local) as command:
            rest, _ = (await command.said(BOTH)).groups()
            async with plain_client(base_url=rest, headers=KEY, timeout=SECONDS) as client:
                form = {"purpose": "user_data"}
                made = await client.post("/v1/files", data=form, files={"file": ("a.txt", b"hello")})
                assert made.status_code == 200, made.text
                assert (await client.get(f"/v1/files/{made.json()['id']}/content")).content == b"hello"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_drains_it(self, local: list[str], number: signal.Signals) -> None:
        async with running("serve", *local) as command:
            await command.said(BOTH)
            command.process.send_signal(number)
            assert await command.ended() == 0
        assert "stopped" in command.written
        assert "Traceback" not in command.written

    async def test_a_running_upload_finishes_before_it_stops(self, local: list[str]) -> None:
        async with running("serve", *local) as command:
            rest, _ = (await command.said(BOTH)).groups()
            stopping = asyncio.Event()

            async def form() -> AsyncIterator[bytes]:
                yield b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
                yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nhello'
                command.process.send_signal(signal.SIGTERM)
                await stopping.wait()
                yield b" world\r\n--x--\r\n"

            headers = KEY | {"content-type": "multipart/form-data; boundary=x"}
            async with plain_client(base_url=rest, headers=headers, timeout=SECONDS) as client:
                upload = asyncio.create_task(client.post("/v1/files", content=form()))
                await command.said("stopping")
                stopping.set()
                assert (await upload).json()["bytes"] == 11
            assert await command.ended() == 0

    async def test_a_second_signal_ends_it_at_once(self, local: list[str]) -> None:
        async with running("serve", *local) as command:
            rest, _ = (await command.said(BOTH)).groups()
            port = int(rest.rsplit(":", 1)[1])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /v1/batches HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n")
            writer.write(b"authorization: Bearer sk-1234\r\ncontent-type: application/json\r\n\r\n{")
            await writer.drain()
            await _answers(rest)
            command.process.terminate()
            await command.said("stopping")
            command.process.terminate()
            assert await command.ended() == -signal.SIGTERM
            writer.close()

    @pytest.mark.parametrize("option", ["--port", "--grpc-port"])
    async def test_a_port_in_use_is_one_line(self, local: list[str], taken: str, option: str) -> None:
        code, _, said = await ran("serve", *local, option, taken)
        assert code == 1
        assert re.fullmatch(
            rf"batchyard: (gRPC )?can't listen on 127\.0\.0\.1:{taken}: .*in use", said.splitlines()[-1]
        )
        assert "add_port" not in said
        assert "Traceback" not in said

    async def test_a_data_directory_in_use_is_one_line(self, local: list[str]) -> None:
        async with running("serve", *local) as command:
            await command.said(BOTH)
            code, _, said = await ran("serve", *local)
        assert (code, said.splitlines()[-1].startswith("batchyard: ")) == (1, True)
        assert "Traceback" not in said

    @pytest.mark.parametrize("command", ["serve", "service"])
    async def test_a_registry_of_other_files_is_one_line_until_it_is_accepted(
        self, local: list[str], tmp_path: Path, command: str
    ) -> None:
        async with running("serve", *local) as first:
            await first.said(BOTH)
        (tmp_path / "data/registry.id").write_text("another 7\n")
        code, _, said = await ran(command, *local)
        assert (code, "--accept-registry" in said.splitlines()[-1]) == (1, True)
        assert "Traceback" not in said
        async with running(command, *local, "--accept-registry") as accepted:
            await accepted.said("gRPC on")
        async with running(command, *local) as again:
            await again.said("gRPC on")

    async def test_variables_of_providers_add_deployments_and_never_show_a_secret(self, local: list[str]) -> None:
        environ = {"OPENAI_API_KEY": "sk-hunter2", "AZURE_API_BASE": "hunter2", "LITELLM_MASTER_KEY": "hunter2"}
        async with running("serve", *local, **environ) as command:
            await command.said(BOTH)
        assert (
            "providers: local (echo), openai (openai at https://api.openai.com/v1); default: local" in command.written
        )
        assert "the AZURE_* variables make no deployment: api_base: expected an http:// or https:// URL" in (
            command.written
        )
        assert "hunter2" not in command.written


class TestApart:
    async def test_a_shim_finds_its_service(self, local: list[str]) -> None:
        async with running("service", *local) as service:
            target = (await service.said(r"gRPC on (127\.0\.0\.1:\d+)"))[1]
            async with running("shim", "--port", "0", "--service", target, "--host", "127.0.0.1") as shim:
                rest = (await shim.said(r"REST on (http://[\d.:]+), service at"))[1]
                assert re.search("settings from the environment\\W", shim.written)
                assert "providers" not in shim.written
                async with plain_client(base_url=rest, timeout=SECONDS) as client:
                    assert (await client.get("/health/readiness")).status_code == 200
                service.process.terminate()
                assert await service.ended() == 0
                async with plain_client(base_url=rest, timeout=SECONDS) as client:
                    assert (await client.get("/health/readiness")).status_code == 503
                    assert (await client.get("/health/liveliness")).status_code == 200
                shim.process.terminate()
                assert await shim.ended() == 0

    async def test_a_shim_whose_port_is_in_use_is_one_line(self, taken: str) -> None:
        code, _, said = await ran("shim", "--port", taken)
        assert (code, "Traceback" in said) == (1, False)
        assert said.splitlines()[-1].startswith(f"batchyard: can't listen on 127.0.0.1:{taken}")


class TestCheckConfig:
    async def test_it_prints_the_settings_without_secrets(self) -> None:
        code, out, err = await ran("check-config", "--config", str(DEVELOPMENT), BATCHYARD_PORT="4001")
        assert (code, err) == (0, "")
        assert {"batchyard.port: 4001", "general_settings.master_key: set", "batchyard.local.echo: true"} <= set(
            out.splitlines()
        )
        assert "sk-1234" not in out

    async def test_it_prints_warnings(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("batchyard: {local: {echo: true}}\nrouter_settings: {num_retries: 1}\n")
        code, out, _ = await ran("check-config", "--config", str(tmp_path / "c.yaml"))
        assert (code, "warning: keys that are not used: router_settings.num_retries" in out) == (0, True)

    async def test_it_ends_well_where_an_entry_is_disabled_and_not_where_one_is_refused(self, tmp_path: Path) -> None:
        entry = "model_list:\n- {model_name: m, litellm_params: {model: openai/m, api_key: hunter2, %s: hunter2}}\n"
        said = []
        for key in ("region_name", "api_bse"):
            (tmp_path / "c.yaml").write_text(
                entry % key + "batchyard: {local: {echo: true}, default_provider: local}\n"
            )
            code, out, err = await ran("check-config", "--config", str(tmp_path / "c.yaml"), OPENAI_API_KEY="hunter2")
            said.append((code, "warning: model_list[0] is disabled: litellm_params.region_name could" in out))
            assert "hunter2" not in out + err
        assert said == [(0, True), (1, False)]
        assert err.startswith("model_list[0].litellm_params.api_bse: unknown key; did you mean api_base? (")

    async def test_it_prints_the_deployments_without_secrets(self) -> None:
        environ = {"OPENAI_API_KEY": "hunter2", "AZURE_API_KEY": "hunter2", "AZURE_API_BASE": "https://r.example/"}
        code, out, err = await ran("check-config", "--config", str(DEVELOPMENT), **environ)
        assert (code, err) == (0, "")
        assert out.splitlines()[-2:] == [
            "deployment openai: openai at https://api.openai.com/v1",
            "deployment azure: azure at https://r.example",
        ]
        assert "hunter2" not in out

    async def test_problems_end_with_one(self) -> None:
        code, out, err = await ran("check-config", "--config", str(DEVELOPMENT), "--port", "x", "--host", "0.0.0.0")
        assert (code, out) == (1, "")
        assert err.splitlines()[0] == "batchyard.port: expected an integer from 0 to 65535, got 'x' (--port)"
        assert "well-known sk-1234" in err

    async def test_a_home_directory_that_is_not_there_is_a_problem_with_its_place(self) -> None:
        code, _, err = await ran("check-config", "--config", str(DEVELOPMENT), "--data-dir", "~nosuchuser/x")
        assert (code, err.startswith("batchyard.data_dir: expected a path"), "--data-dir" in err) == (1, True, True)

    async def test_of_several_files_the_last_counts(self, tmp_path: Path) -> None:
        code, _, _ = await ran("check-config", "--config", str(tmp_path / "no.yaml"), "--config", str(DEVELOPMENT))
        assert code == 0


class TestUsage:
    async def test_the_version_is_printed(self) -> None:
        code, out, _ = await ran("--version")
        assert (code, bool(re.fullmatch(r"batchyard \d+\.\d+\.\d+\n", out))) == (0, True)

    @pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"]])
    async def test_the_base_install_answers_for_itself(self, arguments: list[str]) -> None:
        assert (await ran_bare(HALVES, *arguments))[0] == 0

    async def test_the_base_install_calls_a_service(self) -> None:
        code, err = await ran_bare(HALVES, "list", "--server", "127.0.0.1:1", "--patience", "0")
        said, advice = err.splitlines()
        assert (code, said) == (1, "batchyard: no answer from the service at 127.0.0.1:1: Connection refused")
        assert "--server HOST:PORT" in advice

    @pytest.mark.parametrize(
        ("command", "missing", "extra"),
        [
            ("serve", "yaml", "all"), ("serve", "uvloop", "all"), ("serve", "httptools", "all"),
            ("service", "sqlalchemy", "service"), ("shim", "httptools", "shim"), ("check-config", "yaml", "service"),
        ],
    )  # fmt: skip
    async def test_a_missing_package_is_one_line_that_says_what_to_install(
        self, command: str, missing: str, extra: str
    ) -> None:
        code, err = await ran_bare([missing], command, "--config", str(DEVELOPMENT))
        assert (code, err) == (1, f"batchyard {command} needs more packages; in a checkout: pip install '.[{extra}]'\n")

    async def test_tracing_without_its_packages_says_what_to_install(self, local: list[str], tmp_path: Path) -> None:
        config = tmp_path / "config.yaml"
        config.write_text("batchyard: {local: {echo: true}, tracing: true}")
        code, err = await ran_bare(["opentelemetry"], "serve", *local, "--config", str(config))
        assert code == 1
        assert err.splitlines()[-1] == "batchyard: tracing needs more packages; in a checkout: pip install '.[otel]'"
        assert "Traceback" not in err

    @pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "--fly"], ["serve", "--service", "h:1"]])
    async def test_another_use_ends_with_two(self, arguments: list[str]) -> None:
        code, _, err = await ran(*arguments)
        assert (code, err.startswith("usage: batchyard")) == (2, True)


async def _answers(rest: str) -> None:
    """Waits until `rest` has worked through what was sent before."""
    async with plain_client(base_url=rest, timeout=SECONDS) as client:
        await client.get("/health/liveliness")
