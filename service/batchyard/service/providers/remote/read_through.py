"""Reading one live batch of a deployment: from its row while that is fresh, else by asking, once for all callers."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from batchyard.service.domain.records import BatchRecord
from batchyard.service.errors import BatchyardError
from batchyard.service.providers.remote.deployment_api import DeploymentApi
from batchyard.service.providers.remote.poller import Follower

ROUND_SECONDS = 5.0  # how late a round of the follower may be
PATIENCE_SECONDS = 5.0  # how long an answer is waited for where what is known will do


class ReadThrough:
    """Looks at single batches, beside the follower, which looks at all of them every `poll_seconds`."""

    def __init__(self, api: DeploymentApi, follower: Follower, poll_seconds: float, clock: Callable[[], float]) -> None:
        self._api = api
        self._follower = follower
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._shared: dict[int, _Look] = {}

    async def now(self, batch: BatchRecord) -> BatchRecord:
        """The batch as the deployment has it now; written only where that is news. Raises Refused."""
        return await self._look(batch, news=True)

    async def lately(self, batch: BatchRecord) -> BatchRecord:
        """The batch as it was seen in the last two rounds.

        Where the follower didn't see it then, it is asked for, not twice in `poll_seconds`; where that fails, it stays
        as it was.
        """
        age = self._clock() - (batch.observed_at or 0)
        if age > 2 * self._poll_seconds + ROUND_SECONDS:
            with suppress(BatchyardError, TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    return await self._together(batch)
        return batch

    async def _together(self, batch: BatchRecord) -> BatchRecord:
        look = self._shared.get(batch.seq)
        if look is None:
            look = self._shared[batch.seq] = _Look(asyncio.create_task(self._look(batch)))
            look.task.add_done_callback(lambda task: self._ended(batch.seq, task))
        look.waiting += 1
        try:
            await asyncio.wait({look.task})
            return batch if look.task.cancelled() else look.task.result()
        finally:
            look.waiting -= 1
            if not look.waiting:  # nobody wants to know any more
                look.task.cancel()

    def _ended(self, seq: int, task: asyncio.Task[BatchRecord]) -> None:
        """What came of it is the answer for who asks in the next `poll_seconds`, too."""
        task.cancelled() or task.exception()  # it may be that nobody asks
        asyncio.get_running_loop().call_later(self._poll_seconds, self._shared.pop, seq)

    async def _look(self, batch: BatchRecord, *, news: bool = False) -> BatchRecord:
        return await self._follower.seen(batch, await self._api.batch(batch.native_id or ""), news=news)


class _Look:
    """A look that runs or has ended, and how many wait for it."""

    def __init__(self, task: asyncio.Task[BatchRecord]) -> None:
        self.task = task
        self.waiting = 0
