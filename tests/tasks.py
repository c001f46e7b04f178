"""`batchyard` as a process that tells which of asyncio's tasks it has: `python -m tests.tasks ...` at SIGUSR1."""

import asyncio
import json
import os
import runpy
import signal
import sys
from collections import Counter
from typing import Any

from tests.harness import until
from tests.processes import Process

_TOLD = "asyncio's tasks: "


async def tasks(process: Process) -> Counter[str]:
    """The tasks of such a process, by the coroutine that they run."""

    async def told() -> list[str]:
        return [line for line in process.log.read_text().splitlines(keepends=True) if line.startswith(_TOLD)]

    before = len(await told())
    os.kill(process.pid, signal.SIGUSR1)
    lines = await until(told, lambda lines: len(lines) > before and lines[-1].endswith("\n"))
    return Counter(json.loads(lines[-1].removeprefix(_TOLD)))


def _tell(*_: Any) -> None:
    names = Counter(getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    os.write(sys.stderr.fileno(), f"{_TOLD}{json.dumps(names)}\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    runpy.run_module("batchyard.cli.main", run_name="__main__", alter_sys=True)
