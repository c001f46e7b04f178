"""What the README says of OpenAI and Azure works as pasted, with nothing but the variables that it names."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.processes import ROOT, process
from tests.upstream.azure import fake_azure
from tests.upstream.faults import Answer
from tests.upstream.openai import fake_openai
from tests.upstream.store import Upstream

from batchyard.service.config.loader import load_settings
from batchyard.service.config.settings import Settings

from .blocks import block
from .test_commands import pasted

README = (ROOT / "README.md").read_text()
SECTION = re.findall(r"^## OpenAI and Azure OpenAI\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)[0]
CURL = re.findall(r"^    (curl (?:.*\\\n)*.*)$", SECTION, re.MULTILINE)
LINE = {"custom_id": "task-0", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}

Served = tuple[tuple[int, int], Upstream, Upstream]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """The ports of `batchyard serve`, and the fakes that are OpenAI and Azure to it."""
    options = ["--data-dir", str(tmp_path / "data"), "--port", "0", "--grpc-port", "0"]
    async with fake_openai() as openai, fake_azure() as azure:
        environ = {"OPENAI_API_KEY": openai.key, "AZURE_API_KEY": azure.key, "AZURE_API_BASE": azure.api_base}
        # The real one's address is the default; and OpenAI is looked at often, since the test waits for that.
        environ |= {"OPENAI_BASE_URL": openai.api_base, "BATCHYARD_UPSTREAM__OPENAI_POLL_SECONDS": "0.2"}
        assert {"OPENAI_API_KEY", "AZURE_API_KEY", "AZURE_API_BASE"} < set(re.findall(r"export (\w+)", SECTION))
        with process(tmp_path / "log", "batchyard.cli.main", "serve", *options, environ=environ) as running:
            yield (await running.port("REST on"), await running.port("gRPC on")), openai, azure


async def test_azures_commands_take_a_batch_through(served: Served, tmp_path: Path) -> None:
    ports, openai, azure = served
    (tmp_path / "mydata.jsonl").write_text(json.dumps(LINE) + "\n")
    ids = {"file-abc123": "", "batch_abc123": ""}

    async def run(command: str) -> dict[str, Any]:
        for printed, real in ids.items():
            command = command.replace(printed, real)
        return dict(json.loads(await pasted(command, ports, tmp_path)))

    upload, create, retrieve, cancel, listing = CURL
    ids["file-abc123"] = (await run(upload))["id"]
    ids["batch_abc123"] = (await run(create))["id"]
    assert list(azure.batches) == [ids["batch_abc123"]]
    assert (await run(retrieve))["input_file_id"] == ids["file-abc123"]
    assert (await run(cancel))["status"] in {"cancelling", "cancelled"}
    assert [batch["id"] for batch in (await run(listing))["data"]] == [ids["batch_abc123"]]
    assert openai.requests == []


async def test_the_first_commands_run_at_openai(served: Served, tmp_path: Path) -> None:
    ports, openai, _ = served
    script = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[0]
    printed = await pasted(script.replace('"model": "echo"', '"model": "gpt-4o-mini"'), ports, tmp_path)
    assert '"custom_id": "task-0"' in printed
    assert len(openai.batches) == 1


async def test_health_has_the_form_that_is_shown(served: Served, tmp_path: Path) -> None:
    ports, openai, _ = served
    openai.fault(Answer(503))
    found = json.loads(await pasted(block("docs/operations.md", "curl "), ports, tmp_path))
    shown = json.loads(block("docs/operations.md", '{"healthy_endpoints"'))
    assert [*found] == [*shown]
    for group in ("healthy_endpoints", "unhealthy_endpoints"):
        (one,), (like,) = found[group], shown[group]
        assert set(like) <= set(one) <= {*like, "latency_ms"}
        assert {one[name] for name in ("model", "deployment", "provider", "mode")} <= set(like.values())


@pytest.mark.parametrize(
    ("page", "start", "count"),
    [
        ("docs/configuration.md", "files_settings:", 3),
        ("docs/providers.md", "files_settings:\n- custom_llm_provider: openai", 1),
        ("docs/providers.md", "files_settings:\n- custom_llm_provider: azure", 2),
    ],
)
def test_the_deployments_that_are_shown_are_some(tmp_path: Path, page: str, start: str, count: int) -> None:
    found = configured(tmp_path, block(page, start))
    assert len(found.deployments) == count
    assert not found.warnings


def test_the_group_that_is_shown_is_one(tmp_path: Path) -> None:
    found = configured(tmp_path, block("docs/configuration.md", "model_list:"))
    (group,) = found.model_groups
    assert (group.name, found.default_provider) == ("batch-gpt-4o-mini", "groups")
    assert [(one.name, one.order, one.weight) for one in group.members] == [
        ("east", 1, 1),
        ("west", 1, 2),
        ("north", 1, 1),
        ("openai", 2, 1),
    ]
    assert not found.warnings


def configured(tmp_path: Path, text: str) -> Settings:
    """The settings of a file's text, with each variable that it names."""
    (tmp_path / "config.yaml").write_text(text)
    return load_settings(tmp_path / "config.yaml", dict.fromkeys(re.findall(r"os\.environ/(\w+)", text), "a-key"))
