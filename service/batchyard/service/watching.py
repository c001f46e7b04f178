"""Following a batch: who writes to its row wakes who watches it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

from msgspec import structs

from batchyard.service.background import until
from batchyard.service.errors import Unavailable
from batchyard.service.registry.records import ENDED, BatchRecord
from batchyard.service.registry.tenant import TenantRegistry

_LOOK_SECONDS = 5.0  # for what another process wrote


class Changes:
    """Wakes the watchers of a batch, known by its `seq`, and all of them when one may have to end."""

    def __init__(self) -> None:
        self.stopping = False
        self._watchers: dict[int, set[asyncio.Event]] = {}

    def touch(self, seq: int) -> None:
        """The batch's row was written."""
        for event in self._watchers.get(seq, ()):
            event.set()

    def wake(self) -> None:
        """Every watcher looks again."""
        for seq in list(self._watchers):
            self.touch(seq)

    def stop(self) -> None:
        """The service drains: every watch ends."""
        self.stopping = True
        self.wake()

    @contextmanager
    def watching(self, seq: int) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        watchers = self._watchers.setdefault(seq, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(seq, None)


async def states(
    owner: TenantRegistry, batch_id: str, provider: str, changes: Changes, check: Callable[[], Awaitable[None]]
) -> AsyncIterator[BatchRecord]:
    """The batch as it is, then at each change, until it has ended. Raises NotFound, and Unavailable at the drain.

    Also what `check` raises, which is called before each look.

    States that come faster than they are taken are left out, never the last one.
    """
    batch = await owner.get_batch(batch_id, provider)
    with changes.watching(batch.seq) as changed:
        sent = None
        while True:
            changed.clear()
            await check()
            batch = await owner.get_batch(batch_id, provider)
            state = structs.replace(batch, observed_at=None)
            if state != sent:
                yield batch
                sent = state
            if batch.status in ENDED:
                return
            if changes.stopping:
                raise Unavailable("The service is stopping. Watch the batch again in a moment.")
            await until(changed, _LOOK_SECONDS)
