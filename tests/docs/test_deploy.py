"""The deployment files are what their readers take, what they name exists, and their configuration starts."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.processes import ROOT
from tests.tools import tool

from batchyard.service.config.loader import load_settings

DEPLOY = ROOT / "docs/deploy"
CHECKS = {
    "compose.yaml": ["check-jsonschema", "--builtin-schema", "vendor.compose-spec"],
    "kubernetes.yaml": ["kubernetes-validate", "--strict"],
    "Dockerfile": ["hadolint"],
}
# As systemd.unit(5), systemd.service(5) and systemd.exec(5) spell them; systemd only warns of others, in its log.
DIRECTIVES = {
    "Unit": {"Description", "After", "Wants"},
    "Service": {
        "ExecStart", "EnvironmentFile", "DynamicUser", "StateDirectory", "StateDirectoryMode", "LogsDirectory",
        "LogsDirectoryMode", "KillSignal", "TimeoutStopSec", "Restart", "RestartSec", "LimitNOFILE", "NoNewPrivileges",
        "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictAddressFamilies",
        "CapabilityBoundingSet",
    },
    "Install": {"WantedBy"},
}  # fmt: skip


def complaints(name: str, file: Path) -> str:
    """What the checker of the deployment file `name` says against this one."""
    program, *options = CHECKS[name]
    command: list[str | Path] = [tool(f".venv-deploy/bin/{program}"), *options, file]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ran.stdout + ran.stderr if ran.returncode else ""


@pytest.mark.parametrize("name", CHECKS)
def test_a_deployment_file_is_what_its_reader_takes(name: str) -> None:
    assert complaints(name, DEPLOY / name) == ""


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("compose.yaml", "cap_drop:", "cap_dorp:"),
        ("kubernetes.yaml", "periodSeconds: 5", "periodSecond: 5"),
        ("Dockerfile", "WORKDIR /src", "WORKDIR src"),
    ],
)
def test_a_wrong_deployment_file_is_found(tmp_path: Path, name: str, right: str, wrong: str) -> None:
    content = (DEPLOY / name).read_text()
    assert right in content
    (tmp_path / name).write_text(content.replace(right, wrong))
    assert complaints(name, tmp_path / name)


def test_the_unit_has_nothing_that_systemd_does_not_know() -> None:
    sections = re.split(r"^\[(\w+)\]$", (DEPLOY / "batchyard.service").read_text(), flags=re.MULTILINE)[1:]
    found = {
        name: set(re.findall(r"^([^#=\n]+)=.*$", content, re.MULTILINE))
        for name, content in zip(sections[::2], sections[1::2], strict=True)
    }
    assert found.keys() == DIRECTIVES.keys()
    assert [(name, key) for name, keys in found.items() for key in keys - DIRECTIVES[name]] == []


def test_the_deployed_configuration_is_valid_on_a_public_address() -> None:
    environ = {"BATCHYARD_MASTER_KEY": "sk-real", "BATCHYARD_LOCAL__API_BASE": "http://vllm:8000/v1"}
    settings = load_settings(DEPLOY / "config.yaml", environ, {"host": "0.0.0.0"})
    assert settings.master_key == "sk-real"
    assert settings.data_dir == Path("/var/lib/batchyard/data")


def test_the_dockerfile_copies_what_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert copied
    assert all((ROOT / name).exists() for line in copied for name in line.split())


def test_the_image_has_every_extra_that_a_service_may_need() -> None:
    (installed,) = re.findall(r"'\.\[(.*)\]'", (DEPLOY / "Dockerfile").read_text())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = (re.findall(r"\[(.*)\]", one) for one in extras["all"])
    assert {*installed.split(","), *everything[0].split(",")} == extras.keys() - {"dev"}


def test_every_stop_leaves_more_time_than_a_drain_takes() -> None:
    drain = load_settings(None, {"BATCHYARD_LOCAL__ECHO": "true"}).drain_seconds
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["batchyard"]
    stateful, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    unit = re.search(r"TimeoutStopSec=(\d+)", (DEPLOY / "batchyard.service").read_text())
    assert unit
    stops = (
        int(compose["stop_grace_period"].removesuffix("s")),
        stateful["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
        int(unit[1]),
    )
    assert all(stop > drain for stop in stops)


def test_the_probes_ask_routes_that_exist() -> None:
    stateful, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    (container,) = stateful["spec"]["template"]["spec"]["containers"]
    paths = {container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")}
    routes = (ROOT / "tests/shim/routes.txt").read_text()
    assert paths == {"/health/readiness", "/health/liveliness"}
    assert all(path in routes for path in paths)
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {port["name"] for port in container["ports"]}


def test_prometheus_finds_the_port_of_the_configuration() -> None:
    port = yaml.safe_load((DEPLOY / "config.yaml").read_text())["batchyard"]["metrics_port"]
    (exposed,) = re.findall(r"^EXPOSE (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["batchyard"]
    stateful, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    template = stateful["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert str(port) in exposed.split()
    assert f"127.0.0.1:{port}:{port}" in compose["ports"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    assert {"name": "metrics", "containerPort": port} in container["ports"]
