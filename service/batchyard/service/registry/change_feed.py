"""Following batches: who writes to a batch's row wakes who watches it, and one read of it serves them all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from msgspec import structs

from batchyard.service.background import until
from batchyard.service.domain.records import ENDED, BatchRecord, PlacementRecord
from batchyard.service.errors import Unavailable
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


class BatchState(NamedTuple):
    """A batch, and its shards in the order of their lines."""

    batch: BatchRecord
    placed: Sequence[PlacementRecord]

    def same(self, batch: BatchRecord) -> bool:
        """Whether the batch shows nothing else, whenever it was looked at."""
        return structs.replace(self.batch, observed_at=None) == structs.replace(batch, observed_at=None)


Read = Callable[[BatchRecord], Awaitable[BatchState]]


class _Feed:
    """The latest state of a batch, read again at each change for all who watch it.

    After each read the event `read` is set, and another takes its place.
    """

    def __init__(self, batch: BatchRecord, changes: Changes, read: Read) -> None:
        self.state: BatchState | None = None
        self.error: Exception | None = None
        self.read = asyncio.Event()
        self.watchers = 0
        self._changes = changes
        self._seq = batch.seq
        self.task = asyncio.create_task(self._run(batch, read))

    def look(self) -> None:
        """Reads again soon."""
        self._changes.touch(self._seq)

    async def _run(self, batch: BatchRecord, read: Read) -> None:
        with self._changes.watching(self._seq) as changed:
            while True:
                changed.clear()
                try:
                    self.state = await read(batch)
                except Exception as error:
                    self.error = error  # every watcher raises it
                done, self.read = self.read, asyncio.Event()
                done.set()
                if self.error or self.state is None or self.state.batch.status in ENDED:
                    return
                await until(changed, _LOOK_SECONDS)


class Watches:
    """All that is watched. `read` is what a batch is now, whoever asks."""

    def __init__(self, changes: Changes, read: Read) -> None:
        self._changes = changes
        self._read = read
        self._feeds: dict[int, _Feed] = {}

    async def states(
        self, owner: TenantRegistry, batch_id: str, provider: str, check: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[BatchState]:
        """The batch as it is, then at each change, until it has ended.

        Raises NotFound, and Unavailable at the drain; also what `check` raises, which is called before each look.

        States that come faster than they are taken are left out, never the last one: nothing waits for a slow watcher.
        """
        batch = await owner.get_batch(batch_id, provider)
        with self._joined(batch) as (feed, passed):
            sent: BatchState | None = None
            while True:
                read, stopping = feed.read, self._changes.stopping
                await check()
                if feed.error:
                    raise feed.error
                state = feed.state
                if state and state is not passed:
                    if (state.batch.provider, state.batch.deployment) != (batch.provider, batch.deployment):
                        batch = await owner.get_batch(batch_id, provider)  # its new place may be kept from this caller
                    if not (sent and sent.same(state.batch)):
                        yield state
                        sent = state
                    if state.batch.status in ENDED:
                        return
                    if stopping:
                        raise Unavailable("The service is stopping. Watch the batch again in a moment.")
                await until(read, _LOOK_SECONDS)

    @contextmanager
    def _joined(self, batch: BatchRecord) -> Iterator[tuple[_Feed, BatchState | None]]:
        """The feed of a batch that was read just now, and a state of it that is older than that, if it has one."""
        feed = self._feeds.get(batch.seq)
        if feed is None or feed.task.done():
            feed = self._feeds[batch.seq] = _Feed(batch, self._changes, self._read)
        passed = feed.state if feed.state and not feed.state.same(batch) else None
        if passed:
            feed.look()
        feed.watchers += 1
        try:
            yield feed, passed
        finally:
            feed.watchers -= 1
            if not feed.watchers:
                feed.task.cancel()
                if self._feeds.get(batch.seq) is feed:
                    del self._feeds[batch.seq]
