"""Each block that somebody may paste runs as it is in some test, or there is a reason why not."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.processes import ROOT

from .blocks import block, blocks

COMMANDS, PASTED, NODE, PROVIDERS, METRICS, GROUPS, SECURE = (
    f"tests/{name}.py"
    for name in (
        "docs/test_commands",
        "docs/test_pasted",
        "docs/test_node",
        "docs/test_providers",
        "cli/test_metrics",
        "docs/test_groups",
        "docs/test_tls",
    )
)
RUN = {
    ("README.md", "make run"): (PASTED, "test_make_run_serves"),
    ("README.md", "cat > mydata"): (COMMANDS, "test_the_readmes_commands_take_a_batch_from_upload_to_results"),
    ("README.md", "BATCHYARD_API_KEY="): (COMMANDS, "test_the_readmes_commands_take_a_batch_from_upload_to_results"),
    ("README.md", ".venv/bin/python - "): (COMMANDS, "test_the_readmes_commands_take_a_batch_from_upload_to_results"),
    ("README.md", "# config.yaml"): (PASTED, "test_the_readmes_configuration_serves"),
    ("README.md", ".venv/bin/batchyard serve --config config"): (PASTED, "test_the_readmes_configuration_serves"),
    ("README.md", "export OPENAI_API_KEY="): (PROVIDERS, "test_the_first_commands_run_at_openai"),
    ("README.md", "export AZURE_API_KEY="): (PROVIDERS, "test_azures_commands_take_a_batch_through"),
    ("README.md", "curl http://localhost:4000/azure/"): (PROVIDERS, "test_azures_commands_take_a_batch_through"),
    ("README.md", "# groups.yaml"): (GROUPS, "test_the_groups_commands_take_a_batch_through"),
    ("README.md", ".venv/bin/batchyard serve --config groups.yaml"): (
        GROUPS,
        "test_the_groups_commands_take_a_batch_through",
    ),
    ("docs/groups.md", "curl "): (GROUPS, "test_the_groups_commands_take_a_batch_through"),
    ("docs/cli.md", "export "): (COMMANDS, "test_the_command_lines_page_works_as_pasted"),
    ("docs/cli.md", "FILE="): (COMMANDS, "test_the_command_lines_page_works_as_pasted"),
    ("docs/cli.md", "head "): (COMMANDS, "test_the_command_lines_page_works_as_pasted"),
    ("docs/keys.md", "export "): (COMMANDS, "test_the_keys_page_works_as_pasted"),
    ("docs/keys.md", "ID="): (COMMANDS, "test_the_keys_page_works_as_pasted"),
    ("docs/limits.md", "# tenants.yaml"): (PASTED, "test_the_limits_that_are_shown_are_some"),
    ("docs/keys.md", "# keys.yaml"): (PASTED, "test_the_keys_that_are_shown_are_some"),
    ("docs/configuration.md", "general_settings:"): (PASTED, "test_the_configuration_that_is_shown_is_one"),
    ("docs/configuration.md", "files_settings:"): (PROVIDERS, "test_the_deployments_that_are_shown_are_some"),
    ("docs/configuration.md", "model_list:"): (PROVIDERS, "test_the_group_that_is_shown_is_one"),
    ("docs/providers.md", "files_settings:\n- custom_llm_provider: openai"): (
        PROVIDERS,
        "test_the_deployments_that_are_shown_are_some",
    ),
    ("docs/providers.md", "files_settings:\n- custom_llm_provider: azure"): (
        PROVIDERS,
        "test_the_deployments_that_are_shown_are_some",
    ),
    ("docs/grpc.md", ".venv/bin/python "): (COMMANDS, "test_the_grpc_example_prints_the_results"),
    ("docs/grpc.md", "npm install "): (NODE, "test_the_grpc_example_prints_the_results_and_compiles"),
    ("docs/grpc.md", "npm run "): (NODE, "test_the_grpc_example_prints_the_results_and_compiles"),
    ("docs/grpc.md", "buf curl "): (PASTED, "test_buf_lists_the_batches"),
    ("docs/metrics.md", "groups:"): (METRICS, "TestThePage"),
    ("docs/operations.md", "curl "): (PROVIDERS, "test_health_has_the_form_that_is_shown"),
    ("docs/operations.md", '{"healthy_endpoints"'): (PROVIDERS, "test_health_has_the_form_that_is_shown"),
    ("docs/operations.md", ".venv/bin/batchyard backup "): (PASTED, "test_a_backup_is_made_while_a_service_runs"),
    ("docs/rest.md", "BATCH="): (COMMANDS, "test_the_newest_batch_is_followed_to_its_end"),
    ("docs/sdks.md", "from openai import OpenAI"): (PASTED, "test_openais_sdk_creates_and_lists_a_batch"),
    ("docs/sdks.md", "import {"): (NODE, "test_openais_sdk_creates_and_lists_a_batch"),
    ("docs/tls.md", "batchyard:\n  host:"): (SECURE, "test_the_configurations_that_are_shown_are_some"),
    ("docs/tls.md", "batchyard:\n  tls:"): (SECURE, "test_the_configurations_that_are_shown_are_some"),
    ("docs/tls.md", "batchyard:\n  service_address:"): (SECURE, "test_the_configurations_that_are_shown_are_some"),
    ("docs/tls.md", "batchyard:\n  socket:"): (SECURE, "test_the_configurations_that_are_shown_are_some"),
    ("docs/tls.md", "curl --cacert"): (SECURE, "test_the_commands_reach_a_server_over_tls"),
    ("docs/tracing.md", ".venv/bin/python -m pip install "): (PASTED, "test_the_extras_that_are_installed_exist"),
    ("README.md", "python3 -m venv "): (PASTED, "test_the_extras_that_are_installed_exist"),
    ("docs/sdks.md", "from openai import AzureOpenAI"): (PASTED, "test_azures_client_creates_a_batch"),
}
SKIPPED = {
    ("README.md", "make test"): "is what runs this",
    ("docs/CONTRIBUTING.md", "make "): "names what there is to make; CI makes all of it",
    ("docs/benchmarks.md", "make bench"): "takes minutes",
    ("docs/configuration.md", "batchyard.local.max_concurrency: "): "is an error's form",
    ("docs/errors.md", '{"error"'): "is an answer",
    ("docs/limits.md", "Rate limit reached"): "is an error's form",
    ("docs/local.md", "validating"): "is a diagram",
    ("docs/metrics.md", "scrape_configs:"): "is Prometheus's configuration",
    ("docs/metrics.md", "sum by (provider)"): "is a query for Prometheus; TestThePage knows its names",
    ("docs/metrics.md", "histogram_quantile("): "is a query for Prometheus; TestThePage knows its names",
    ("docs/providers.md", "export OPENAI_API_KEY="): "stands in the README, where it runs",
    ("docs/providers.md", "export AZURE_API_KEY="): "stands in the README, where it runs",
    ("docs/rest.md", "event: "): "is an answer",
    ("docs/cli.md", "3,891 ok"): "is the last line of a command; tests/cli/test_people_outputs.py has its form",
}
FATES: Mapping[tuple[str, str], object] = {**RUN, **SKIPPED}


def test_every_block_is_run_or_skipped_for_a_reason() -> None:
    new = [
        f"{page}: {text[:60]}"
        for page, _, text in blocks()
        if not any(page == known and text.startswith(start) for known, start in FATES)
    ]
    assert not new, f"run these in a test, and name it in {Path(__file__).name}: {new}"


# The command where a shell would look for it on the PATH: at the start of a command, behind no folder.
_BEGINS = r"(?:^|[|;&(]|\b(?:do|then|until|if|exec)\b)[ \t]*(?:\w+=[^\s(]*[ \t]+)*"
_BARE = re.compile(rf"{_BEGINS}batchyard(?=[ \t])", re.MULTILINE)


def test_the_command_is_spelled_so_that_a_shell_finds_it_in_a_checkout() -> None:
    """`.venv/bin/batchyard` is there after `make run`; what runs a block finds nothing beside it on the PATH either."""
    assert [f"{page}: {found}" for page, _, text in blocks() for found in _BARE.findall(text)] == []
    called = [one for one in blocks() if re.search(r"(?m)(?:^|[(|] *|\S )\.venv/bin/batchyard ", one.text)]
    assert {"README.md", "docs/cli.md", "docs/keys.md", "docs/operations.md", "docs/tls.md"} <= {
        one.page for one in called
    }


def test_what_looks_for_a_bare_command_finds_it() -> None:
    """The control."""
    for script in ("batchyard list", "A=1 batchyard x", "x | batchyard y", "A=$(batchyard z)", "do batchyard z"):
        assert _BARE.search(script)
    for script in (".venv/bin/batchyard list", "cd batchyard-venv", "one/batchyard list", "of batchyard so"):
        assert not _BARE.search(script)


@pytest.mark.parametrize("fate", FATES, ids="".join)
def test_a_block_that_has_a_fate_is_there(fate: tuple[str, str]) -> None:
    assert block(*fate)


@pytest.mark.parametrize(("file", "test"), sorted(set(RUN.values())))
def test_a_test_that_runs_a_block_is_there(file: str, test: str) -> None:
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    assert (ROOT / file).exists()
    assert hasattr(module, test)
