"""How the tree hangs together: namespaces, and who may import whom."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.processes import ROOT

ROOTS = ("protos", "service", "shim")
SHIM = sorted((ROOT / "shim").rglob("*.py"))
OURS = sorted(path for root in (*ROOTS, "tests") for path in (ROOT / root).rglob("*.py") if "_pb2" not in path.name)
PROVIDERS = re.compile(r"openai|azure|anthropic|vertex|bedrock|mistral|\blocal\b|\becho\b", re.IGNORECASE)


def modules(package: str) -> Iterator[tuple[Path, set[str]]]:
    """Each module of ours under a package, with the packages of ours that it imports, as batchyard.NAME."""
    for path in OURS:
        if package in path.as_posix():
            yield path, imported(ast.parse(path.read_text()))


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {".".join(name.split(".")[:2]) for name in names if name.startswith("batchyard.")}


def test_the_shim_names_no_provider() -> None:
    named = [
        f"{path.name}: {line}" for path in SHIM for line in path.read_text().splitlines() if PROVIDERS.search(line)
    ]
    assert named == []


def test_the_security_rules_hold_for_all_that_runs() -> None:
    """ruff's; where one is waived, the line says why."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    waived = {rule: path for path, rules in lint["per-file-ignores"].items() for rule in rules if rule[0] == "S"}
    assert not [rule for rule in lint["ignore"] if re.fullmatch(r"S\d*", rule)]
    assert set(waived.values()) <= {".ci/**", "tests/**"}
    bare = [
        f"{path.name}: {line.strip()}"
        for path in OURS
        if "tests" not in path.parts
        for line in path.read_text().splitlines()
        if re.search(r"# noqa: S\d+\s*$", line)
    ]
    assert bare == []


@pytest.mark.parametrize("root", ROOTS)
def test_a_namespace_folder_is_no_package(root: str) -> None:
    assert (ROOT / root / "batchyard").is_dir()
    assert not (ROOT / root / "batchyard" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("package", "foreign"),
    [
        ("shim/batchyard/shim", {"batchyard.service", "batchyard.cli"}),
        ("service/batchyard/service", {"batchyard.shim", "batchyard.cli"}),
        ("service/batchyard/common", {"batchyard.service", "batchyard.shim", "batchyard.cli"}),
        ("protos/batchyard", {"batchyard.service", "batchyard.shim", "batchyard.common", "batchyard.cli"}),
    ],
)
def test_only_the_command_knows_both_halves(package: str, foreign: set[str]) -> None:
    found = dict(modules(package))
    assert found
    assert {path.name: names & foreign for path, names in found.items() if names & foreign} == {}


def test_the_command_imports_both_halves() -> None:
    """The control: what looks for imports finds these."""
    assert {"batchyard.service", "batchyard.shim"} <= set().union(*dict(modules("batchyard/cli")).values())
