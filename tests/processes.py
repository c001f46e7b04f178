"""`batchyard` and its helpers as processes of their own, for suites that kill them or measure them."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.harness import KEY, until

ROOT = Path(__file__).parents[1]
_OURS = ("BATCHYARD_", "LITELLM_", "OPENAI_", "AZURE_", "OTEL_")


class Process:
    """A started `python -m MODULE ...`; all that it writes is in the file `log`."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.pid = popen.pid
        self.log = log
        self._popen = popen

    async def port(self, said: str = "gRPC on") -> int:
        """The port in the log line that has `said` and then HOST:PORT; fails where the process ended without it."""
        found = await until(self._search_for(said), lambda match: match is not None)
        assert found
        return int(found[1])

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        self._popen.kill()
        self._popen.wait()

    def terminate(self) -> None:
        """SIGTERM."""
        self._popen.terminate()

    @asynccontextmanager
    async def halting(self, seconds: float = 0.15, between: float = 0.05) -> AsyncIterator[None]:
        """While the context lasts, the system gives the process little time: it stands still for `seconds` at once."""

        async def halt() -> None:
            while True:
                os.kill(self.pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(seconds)
                finally:
                    os.kill(self.pid, signal.SIGCONT)
                await asyncio.sleep(between)

        task = asyncio.create_task(halt())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def ended(self) -> int:
        """The exit code, when it has ended by itself."""

        async def code() -> int | None:
            return self._popen.poll()

        found = await until(code, lambda code: code is not None)
        assert found is not None
        return found

    def peak_bytes(self) -> int:
        """The most memory that it has had resident (VmHWM)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found, status
        return int(found[1]) * 1024

    def cpu_seconds(self) -> float:
        """The time on a processor of all its threads, within itself and within the system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def share_bytes(self) -> int:
        """The memory that it has resident now; what it shares with others is divided among them (PSS)."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        assert found, rollup
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        """Makes `peak_bytes` begin again at what is resident now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _search_for(self, said: str) -> Any:
        pattern = re.compile(rf"{said} \S*:(\d+)")

        async def look() -> re.Match[str] | None:
            found = pattern.search(self.log.read_text())
            if found is None and self._popen.poll() is not None:
                raise AssertionError(f"ended with {self._popen.returncode}:\n{self.log.read_text()}")
            return found

        return look


@contextmanager
def process(log: Path, module: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Runs a module until the context ends, then kills it. Of settings, only `environ` reaches it."""
    with running(log, [sys.executable, "-m", module, *arguments], environ) as started:
        yield started


@contextmanager
def running(log: Path, command: Sequence[str], environ: Mapping[str, str] | None = None) -> Iterator[Process]:
    """The same of any command."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    with log.open("wb") as output:
        popen = subprocess.Popen(
            command, cwd=ROOT, env={**clean, **(environ or {})}, stdout=output, stderr=subprocess.STDOUT
        )
    started = Process(popen, log)
    try:
        yield started
    finally:
        started.kill()


@contextmanager
def batchyard(
    folder: Path,
    command: str = "service",
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    module: str = "batchyard.cli.main",
) -> Iterator[Process]:
    """Runs a server of `batchyard` on free ports, with what `configure` wrote into `folder` and its data there.

    `module` is one that runs the command, and may tell more about it.
    """
    options = ["--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", "0"]
    if command != "shim":
        options += ["--grpc-port", "0", "--data-dir", str(folder / "data")]
    with process(folder / f"{command}.log", module, command, *options, *arguments, environ=environ) as started:
        yield started


def configure_at(folder: Path, provider: str, api_base: str, api_key: str) -> None:
    """Writes the configuration of `batchyard`: the suites' key, and nothing but a deployment."""
    deployment = {"custom_llm_provider": provider, "api_base": api_base, "api_key": api_key}
    own = {"log_format": "text", "upstream": {"openai_poll_seconds": 0.1, "azure_poll_seconds": 0.1}}
    whole = {"general_settings": {"master_key": KEY}, "files_settings": [deployment], "batchyard": own}
    (folder / "config.yaml").write_text(json.dumps(whole))


def configure(folder: Path, limits: Mapping[str, int] | None = None, **local: Any) -> None:
    """Writes the configuration of `batchyard`: the suites' key, and the embedded provider as `local` says."""
    own = {"default_provider": "local", "local": local, "limits": dict(limits or {}), "log_format": "text"}
    whole = {"general_settings": {"master_key": KEY}, "batchyard": own}
    (folder / "config.yaml").write_text(json.dumps(whole))
