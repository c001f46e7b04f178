"""What a server must not hold on to once its callers have gone: tasks, threads, descriptors, memory, bytes on disk."""

import asyncio
import os
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.harness import until

_POOLS = ("asyncio_", "registry-read")


class Held(NamedTuple):
    """What this process holds: asyncio's tasks by the coroutine that they run, Python's threads, file descriptors.

    Without those of pools, which are bounded and open when they are first needed.
    """

    tasks: Counter[str]
    threads: Counter[str]
    descriptors: Counter[str]

    def within(self, before: "Held") -> bool:
        """Whether nothing is held that was not held before."""
        return not any(now - then for now, then in zip(self, before, strict=True))


def held() -> Held:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    names = Counter(getattr(task.get_coro(), "__qualname__", "") for task in tasks)
    threads = Counter(thread.name for thread in threading.enumerate() if not thread.name.startswith(_POOLS))
    return Held(names, threads, descriptors(os.getpid()))


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, by kind or path, without the registry's pool of connections."""
    links = [Path(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    targets = [str(link.readlink()).partition(":[")[0] for link in links if link.is_symlink()]
    return Counter(target for target in targets if ".sqlite3" not in target)


def system_threads(pid: int) -> Counter[str]:
    """A process's threads by name, those of its libraries too, without the pool that obstore's reads and writes use."""
    names = [path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")]
    return Counter(name for name in names if not name.startswith("tokio"))


def resident_bytes(pid: int) -> int:
    """VmRSS, the memory that is in use now."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found, status
    return int(found[1]) * 1024


@asynccontextmanager
async def nothing_left(settled: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """What happens inside must leave this process as it was, within the tests' patience.

    `settled` is one call of each kind, made before both looks: the first such call opens what later ones use. Memory is
    the soak's to measure, in processes that hypothesis doesn't share.
    """
    await settled()
    before = held()
    yield

    async def look() -> Held:
        await settled()
        return held()

    await until(look, lambda now: now.within(before), every=0.1)
