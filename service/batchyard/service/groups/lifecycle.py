"""The life of a batch of a model group (facts 2).

validating: checked, and its shards sought places, until a deployment runs the first line; then as any batch.
"""

from collections.abc import Callable, Mapping

from batchyard.service.domain.records import LIVE, BatchRecord, Status
from batchyard.service.engine.control import Control
from batchyard.service.engine.transitions import Steps
from batchyard.service.errors import DataLoss
from batchyard.service.groups.batch_run import GroupState, Run
from batchyard.service.groups.context import Context


class GroupLife:
    """A `Life` of batches that deployments run."""

    def __init__(
        self, context: Context, steps: Steps, states: Mapping[str, GroupState], closed: Callable[[str], GroupState]
    ) -> None:
        """`closed` makes the state of a group that is not configured any more: its shards come home, and no more go."""
        self._context = context
        self._steps = steps
        self._states = states
        self._closed = closed

    async def advance(self, batch: BatchRecord, control: Control) -> BatchRecord:
        try:
            batch = await self._context.work.reread(batch)  # an earlier try may have counted it already
            found = await self._steps.input(batch)
            if found.scan is None or (found.errors and not batch.total):
                return await self._steps.fail(batch, found.errors)
            if not batch.total:
                batch = await self._steps.plan(batch, found.scan)
                if batch.status not in LIVE:
                    return batch
            name = batch.model or ""
            state = self._states.get(name) or self._closed(name)
            batch = await Run(self._context, state, batch, found.scan, found.parts, control).to_the_end()
            match batch.status:
                case Status.CANCELLING:
                    return await self._steps.end(batch, Status.CANCELLED)
                case Status.FINALIZING:
                    return await self._steps.complete(batch)
                case _:
                    return await self._steps.finalize(batch)
        except DataLoss as error:
            return await self._steps.give_up(batch, error)
