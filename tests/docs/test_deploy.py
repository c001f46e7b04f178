"""What the deployment files name exists, and their configuration starts."""

import re
from pathlib import Path

import yaml
from tests.processes import ROOT

from batchyard.service.loading import load_settings

DEPLOY = ROOT / "docs/deploy"


def test_the_deployed_configuration_is_valid_on_a_public_address() -> None:
    environ = {"BATCHYARD_MASTER_KEY": "sk-real", "BATCHYARD_LOCAL__API_BASE": "http://vllm:8000/v1"}
    settings = load_settings(DEPLOY / "config.yaml", environ, {"host": "0.0.0.0"})
    assert settings.master_key == "sk-real"
    assert settings.data_dir == Path("/var/lib/batchyard/data")


def test_the_dockerfile_copies_what_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert copied
    assert all((ROOT / name).exists() for line in copied for name in line.split())


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
