"""Very many reads of `batchyard serve`, of a batch and of the list; then a look at what it has taken of memory.

A first tenth of the calls fills what is bounded, and is not measured.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.bench import asking
from tests.bench.load import IN_FLIGHT, load, request
from tests.harness import KEY
from tests.leaks import resident_bytes
from tests.processes import batchyard, configure

MIB = 1 << 20
MOST_GROWTH = 8 * MIB
_STRETCH_SECONDS = 5.0


class Report(NamedTuple):
    """What the calls came to; `growth` in bytes, from the first tenth to the end."""

    calls: int
    seconds: float
    growth: int

    @property
    def good(self) -> bool:
        return self.growth <= MOST_GROWTH

    def __str__(self) -> str:
        return f"{self.calls} calls in {self.seconds:.0f} s, memory {self.growth / MIB:+.1f} MiB"


async def reads(folder: Path, calls: int, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Makes at least that many calls, each of which must be a 200; `tell` hears what is resident now and then."""
    configure(folder, echo=True)
    with batchyard(folder, "serve") as server:
        port, key = await server.port("REST on"), asking.key(KEY)
        wires = [asking.get(await asking.new_batch(port, key), key), request("GET", "/v1/batches?limit=20", key)]
        done, seconds, before = 0, 0.0, 0
        while done < calls:
            if not before and done >= calls // 10:
                before = resident_bytes(server.pid)
            for wire in wires:
                made = await load(port, wire, IN_FLIGHT, _STRETCH_SECONDS)
                done, seconds = done + made.calls, seconds + made.seconds
            tell(f"{done} calls, {resident_bytes(server.pid) / MIB:.1f} MiB")
        return Report(done, seconds, resident_bytes(server.pid) - before)
