"""The rooms of the service, from the top floor down: imports go down only, and none runs in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from tests.processes import ROOT

SERVICE = ROOT / "service/batchyard/service"
FLOORS: list[set[str]] = [
    {"server"},
    {"api"},
    {"groups"},
    {"providers"},
    {"engine"},
    {"audit"},
    {"access"},
    {"upstream"},
    {"registry"},
    {"objects"},
    {"jsonl"},
    {"metrics"},
    {"domain"},
    {"config"},
    {"datadir"},
    {"errors", "background", "workers"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path for path in SERVICE.rglob("*.py") if "migrations" not in path.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(SERVICE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports(path: Path) -> set[str]:
    """The service's modules that a module imports, for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("batchyard.service"):
            module = (node.module or "").removeprefix("batchyard.service").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix(".")
                found.add(inner if inner in NAMES else module)
    return found


IMPORTS = {name_of(path): imports(path) for path in MODULES}


def test_every_module_is_in_a_room() -> None:
    assert {name.split(".")[0] for name in NAMES if name} == LEVEL.keys()


def test_a_room_imports_only_from_rooms_below_it() -> None:
    wrong = [
        f"{name} -> {other}"
        for name, others in IMPORTS.items()
        for other in others
        if name and LEVEL[name.split(".")[0]] > LEVEL[other.split(".")[0]]
    ]
    assert not wrong


def test_only_the_room_of_objects_knows_where_they_are() -> None:
    """Everybody else takes the protocol, and the composition what opens the store."""
    seen = {other for name, others in IMPORTS.items() if not name.startswith("objects.") for other in others}
    assert {other for other in seen if other.startswith("objects.")} == {"objects.base", "objects.open"}


def test_no_import_runs_in_a_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()


def test_no_name_of_a_type_stands_twice() -> None:
    classes: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(name_of(path))
    assert {name: places for name, places in classes.items() if len(places) > 1} == {}
