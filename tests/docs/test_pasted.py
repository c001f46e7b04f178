"""Blocks of the documentation that need more than a server and a shell."""

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import metadata
from pathlib import Path

from tests.harness import plain_client, until
from tests.processes import ROOT, process
from tests.tools import tool

from batchyard.service.config.loader import load_settings

from .blocks import block
from .test_commands import pasted


async def test_make_run_serves(tmp_path: Path) -> None:
    environment = Path(sys.prefix)
    options = f'ARGS="--port 0 --grpc-port 0 --data-dir {tmp_path}/data"'
    command = f"{block('README.md', 'make run').strip()} VENV={environment} -o {environment}/.ready {options}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        run = subprocess.Popen(["bash", "-c", command], cwd=ROOT, stdout=output, stderr=output, start_new_session=True)

    async def said() -> str:
        assert run.poll() is None, log.read_text()
        return log.read_text()

    try:
        await until(said, lambda text: "REST on http" in text)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


async def test_the_readmes_configuration_serves(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(block("README.md", "# config.yaml").replace("/var/lib", str(tmp_path)))
    _, *arguments = shlex.split(block("README.md", ".venv/bin/batchyard serve --config config"))
    environ = {"MY_BATCHYARD_KEY": "sk-mine", "MY_ENDPOINT_KEY": "x", "BATCHYARD_PORT": "0", "BATCHYARD_GRPC_PORT": "0"}
    arguments = [argument.replace("config.yaml", str(config)) for argument in arguments]
    with process(tmp_path / "log", "batchyard.cli.main", *arguments, environ=environ) as served:
        url = f"http://127.0.0.1:{await served.port('REST on')}/v1/batches"
        async with plain_client(headers={"authorization": "Bearer sk-mine"}, timeout=60) as client:
            assert (await client.get(url)).json()["data"] == []
    assert (tmp_path / "batchyard/registry.sqlite3").exists()


def test_the_configuration_that_is_shown_is_one(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(block("docs/configuration.md", "general_settings:"))
    settings = load_settings(config, {"BATCH_KEY": "sk-mine"})
    assert settings.master_key == "sk-mine"
    assert settings.local
    assert settings.local.api_base == "http://127.0.0.1:8000/v1"


def test_the_keys_that_are_shown_are_some(tmp_path: Path) -> None:
    config = tmp_path / "keys.yaml"
    config.write_text(block("docs/keys.md", "# keys.yaml"))
    settings = load_settings(config, {"MASTER_KEY": "sk-mine", "TEAM_A_KEY": "sk-theirs"})
    (key,) = settings.keys
    assert (key.tenant, key.providers, key.limits.requests_per_minute) == ("team-a", ("local",), 600)
    assert not settings.warnings


def test_the_limits_that_are_shown_are_some(tmp_path: Path) -> None:
    config = tmp_path / "tenants.yaml"
    config.write_text(block("docs/limits.md", "# tenants.yaml"))
    settings = load_settings(config, {})
    (tenant,) = settings.tenants
    assert (tenant.name, tenant.limits.requests_per_minute, settings.tenant_limits.stored_bytes) == (
        "team-a",
        6000,
        10**10,
    )


async def test_a_backup_is_made_while_a_service_runs(ports: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("batchyard: {data_dir: data, local: {echo: true}}")
    script = block("docs/operations.md", ".venv/bin/batchyard backup ").replace("/backups", str(tmp_path))
    await pasted(script, ports, tmp_path)
    assert (tmp_path / "batchyard-monday/registry.sqlite3").exists()


async def test_buf_lists_the_batches(ports: tuple[int, int], tmp_path: Path) -> None:
    script = block("docs/grpc.md", "buf curl ").replace("buf curl", f"{tool('.venv-protos/bin/buf')} curl", 1)
    assert (await pasted(script, ports, tmp_path)).strip() == "{}"


async def test_openais_sdk_creates_and_lists_a_batch(ports: tuple[int, int], tmp_path: Path) -> None:
    lines = re.findall(r"^\{\"custom_id.*\}$", (ROOT / "README.md").read_text(), re.MULTILINE)
    (tmp_path / "mydata.jsonl").write_text("\n".join(lines))
    code = block("docs/sdks.md", "from openai import OpenAI")
    for count, sdk in enumerate((".venv-openai2", ".venv-openai3"), 1):
        printed = await pasted(f"{tool(f'{sdk}/bin/python')} - <<'EOF'\n{code}EOF\n", ports, tmp_path)
        status, *listed = printed.splitlines()
        assert status in {"validating", "in_progress", "finalizing", "completed"}
        assert len(listed) == count
        assert all(line.startswith("batch_") for line in listed)


def test_the_extras_that_are_installed_exist() -> None:
    shown = block("docs/tracing.md", ".venv/bin/python -m pip install ") + block("README.md", "python3 -m venv ")
    found = re.findall(r"'\.\[(.*)\]'", shown)
    assert len(found) == 2
    extras = {extra for one in found for extra in one.split(",")}
    assert extras <= set(metadata("batchyard").get_all("Provides-Extra") or ())


async def test_azures_client_creates_a_batch(ports: tuple[int, int], tmp_path: Path) -> None:
    lines = re.findall(r"^\{\"custom_id.*\}$", (ROOT / "README.md").read_text(), re.MULTILINE)
    (tmp_path / "mydata.jsonl").write_text("\n".join(lines))
    code = block("docs/sdks.md", "from openai import AzureOpenAI")
    for sdk in (".venv-openai2", ".venv-openai3"):
        printed = await pasted(f"{tool(f'{sdk}/bin/python')} - <<'EOF'\n{code}EOF\n", ports, tmp_path)
        assert printed.strip() in {"validating", "in_progress", "finalizing", "completed"}
