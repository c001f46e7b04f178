"""What a release must stand: the sdist and the wheel, each alone in a new environment, import and serve.

Runs as `make release-check`, with a pip that fills other environments (its path is the only argument).
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
LINE = {
    "custom_id": "task-0",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "echo", "messages": [{"role": "user", "content": "When was Microsoft founded?"}]},
}
STUBS = "from batchyard.v1 import BatchServiceStub, CreateBatchRequest; from batchyard.admin.v1 import AdminServiceStub"


def main(pip: str) -> None:
    """Exits with what went wrong; says a line for each thing that holds."""
    with TemporaryDirectory(prefix="release-") as name:
        folder = Path(name)
        run(sys.executable, "-m", "hatchling", "build", "--directory", str(folder / "dist"), cwd=ROOT)
        built = sorted((folder / "dist").iterdir())
        if len(built) != 2:
            sys.exit(f"expected an sdist and a wheel, but there are {[path.name for path in built]}")
        for path in built:
            for extra in ("", "[all]"):
                python = environment(folder / f"{path.suffix[1:]}{extra.strip('[]')}", pip, f"{path}{extra}")
                run(python, "-c", STUBS, cwd=folder)
                if extra:
                    quick_start(Path(python).parent, folder / f"run-{path.suffix[1:]}")
                sys.stdout.write(f"ok  {path.name}{extra}\n")


def environment(folder: Path, pip: str, requirement: str) -> str:
    """The Python of a new environment that has a distribution, and nothing of this checkout."""
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = str(folder / "bin/python")
    pins = str(ROOT / ".ci/constraints.txt")
    options = ("--quiet", "--disable-pip-version-check", "-c", pins, "--build-constraint", pins)
    run(pip, "-m", "pip", "--python", python, "install", *options, requirement)
    return python


def quick_start(programs: Path, folder: Path) -> None:
    """A batch of one line from its upload to its result, through the installed command."""
    folder.mkdir()
    (folder / "mydata.jsonl").write_text(json.dumps(LINE) + "\n")
    batchyard = str(programs / "batchyard")
    with serving(batchyard, folder) as target:
        words = ("submit", "mydata.jsonl", "--wait", "-o", "results.jsonl", "--server", target)
        run(batchyard, *words, cwd=folder, BATCHYARD_API_KEY="sk-release")
    result = json.loads((folder / "results.jsonl").read_text())
    if result["response"]["status_code"] != 200:
        sys.exit(f"the line's result is {result}")


@contextmanager
def serving(batchyard: str, folder: Path) -> Iterator[str]:
    """The address of a service that the installed command runs until the context ends."""
    settings = {"BATCHYARD_LOCAL__ECHO": "true", "BATCHYARD_MASTER_KEY": "sk-release", "BATCHYARD_LOG_FORMAT": "text"}
    command = [batchyard, "serve", "--port", "0", "--grpc-port", "0", "--data-dir", str(folder / "data")]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=clean(**settings), stdout=output, stderr=output)
    try:
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"gRPC on (\S+:\d+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"the service did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield found[1]
    finally:
        process.terminate()
        process.wait(PATIENCE)


def clean(**more: str) -> dict[str, str]:
    """This environment without what configures a service or points Python elsewhere."""
    ours = ("BATCHYARD_", "LITELLM_", "OPENAI_", "AZURE_", "OTEL_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


def run(*command: str, cwd: Path | None = None, **more: str) -> None:
    """Runs a command; where it fails, exits with what it wrote."""
    ran = subprocess.run(command, cwd=cwd, env=clean(**more), capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{' '.join(command)}\n{ran.stdout}{ran.stderr}")


if __name__ == "__main__":
    main(sys.argv[1])
