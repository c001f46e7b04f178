"""Generates the stubs and openapi.json from the protos, and checks that these are current, linted and compatible.

    python .ci/protos.py generate    write the stubs beside their protos, and the shim's openapi.json
    python .ci/protos.py check       both current, buf lint, buf format, buf breaking against protos/batchyard.binpb
    python .ci/protos.py image       accept today's contract as the one that later changes may not break

The generator's version is every client's minimum, so grpcio-tools is pinned low on purpose: what 1.76.0 generates
runs on grpcio >= 1.76 with protobuf 6.31 up to 7.x. It lives in an environment of its own (.ci/protos.txt), since it
would hold protobuf itself back.
"""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import google.api.annotations_pb2
import grpc_tools

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OPENAPI = ROOT / "shim/batchyard/shim/openapi.json"
IMAGE = PROTOS / "batchyard.binpb"
GOOGLEAPIS = Path(google.api.annotations_pb2.__file__).parents[2]


def generate(out: Path, openapi: Path) -> None:
    protos = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    services = [proto for proto in protos if proto.endswith("_service.proto")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{GOOGLEAPIS}"]
    protoc += [f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    plugins = Path(sys.executable).parent
    for kind in ("mypy", "mypy_grpc"):
        protoc += [f"--plugin=protoc-gen-{kind}={plugins / f'protoc-gen-{kind}'}"]
    run([*protoc, f"--python_out={out}", f"--mypy_out={out}", *protos])
    run([*protoc, f"--grpc_python_out={out}", f"--mypy_grpc_out={out}", *services])
    with tempfile.NamedTemporaryFile() as described:
        run([*protoc, "--include_source_info", f"--descriptor_set_out={described.name}", *protos])
        path = os.pathsep.join([str(out), str(ROOT / "service")])
        run([sys.executable, str(ROOT / ".ci/openapi.py"), described.name, str(openapi)], PYTHONPATH=path)


def check() -> None:
    with tempfile.TemporaryDirectory() as name:
        out, openapi = Path(name, "stubs"), Path(name, "openapi.json")
        out.mkdir()
        generate(out, openapi)
        made, held = stubs(out), stubs(PROTOS)
        stale = [str(path) for path in sorted(made & held) if not filecmp.cmp(out / path, PROTOS / path, shallow=False)]
        stale += [str(path) for path in sorted(made ^ held)]
        stale += [OPENAPI.name] if openapi.read_bytes() != OPENAPI.read_bytes() else []
        if stale:
            sys.exit(f"not current, run `make protos`: {', '.join(stale)}")
        workspace = buf_workspace(Path(name, "workspace"))
        own = workspace / "protos"
        run(["buf", "lint", str(own)], cwd=workspace)
        run(["buf", "format", "--diff", "--exit-code", str(own)], cwd=workspace)
        run(["buf", "breaking", str(own), "--against", str(IMAGE), "--exclude-imports"], cwd=workspace)


def stubs(folder: Path) -> set[Path]:
    """The generated modules below folder, without what Python compiled of them."""
    return {path.relative_to(folder) for path in folder.rglob("*_pb2*") if path.suffix in {".py", ".pyi"}}


def image() -> None:
    with tempfile.TemporaryDirectory() as name:
        workspace = buf_workspace(Path(name))
        run(["buf", "build", "protos", "--exclude-source-info", "-o", str(IMAGE)], cwd=workspace)


def buf_workspace(folder: Path) -> Path:
    """Our protos, and googleapis from the installed package as a second module."""
    shutil.copytree(PROTOS, folder / "protos", ignore=shutil.ignore_patterns("*.py", "*.pyi", "*.binpb", "buf.yaml"))
    for package in ("api", "rpc"):
        source = GOOGLEAPIS / "google" / package
        shutil.copytree(
            source,
            folder / "googleapis/google" / package,
            ignore=lambda _, names: [name for name in names if not name.endswith(".proto")],
        )
    settings = (PROTOS / "buf.yaml").read_text()
    modules = "modules:\n  - path: protos\n  - path: googleapis\n    lint: {ignore: [googleapis]}\n"
    (folder / "buf.yaml").write_text(settings + modules)
    return folder


def run(command: list[str], cwd: Path = ROOT, **environ: str) -> None:
    if command[0] == "buf":
        command = [str(Path(sys.executable).parent / "buf"), *command[1:]]
    if subprocess.run(command, cwd=cwd, env={**os.environ, **environ}, check=False).returncode:
        sys.exit(f"failed: {Path(command[0]).name} {command[1]}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["generate"]:
            generate(PROTOS, OPENAPI)
        case ["check"]:
            check()
        case ["image"]:
            image()
        case _:
            sys.exit(__doc__)
