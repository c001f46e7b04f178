"""Batches that our own engine advances: those of `local`, and those elsewhere whose input is not there."""

from collections.abc import Callable

from batchyard.common.tracing import Tracing
from batchyard.service.config.settings import Limits, RetentionSettings
from batchyard.service.domain.ids import new_batch_id
from batchyard.service.domain.names import WINDOW_SECONDS
from batchyard.service.domain.records import BatchRecord, FileRecord, Status
from batchyard.service.engine.engine import Engine
from batchyard.service.providers.base import NewBatch
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.usage import UsageEstimate


class OwnBatches:
    """Adds and cancels them."""

    def __init__(
        self, engine: Engine, limits: Limits, retention: RetentionSettings, tracing: Tracing, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._retention = retention
        self._tracing = tracing
        self._clock = clock

    async def add(self, owner: TenantRegistry, new: NewBatch, provider: str, file: FileRecord | None) -> BatchRecord:
        """Adds one over `file`, if that is there.

        Raises Busy, and AlreadyExists where its idempotency key stands for another request.
        """
        now = int(self._clock())
        values = {
            "id": new_batch_id(),
            "provider": provider,
            "endpoint": new.endpoint,
            "model": new.model or None,
            "input_file_id": new.input_file_id,
            "completion_window": new.completion_window,
            "status": Status.VALIDATING,
            "created_at": now,
            "expires_at": now + WINDOW_SECONDS,
            "metadata": new.metadata,
            "output_seconds": new.output_seconds or self._retention.output_file_seconds,
            "traceparent": self._tracing.carrier().get("traceparent"),
        }
        once, rate = new.once(provider, now), self._limits.batch_rate
        batch = await owner.add_batch(values, once, rate, UsageEstimate.over(file))
        self._engine.wake()
        return batch

    async def cancel(self, owner: TenantRegistry, batch: BatchRecord) -> BatchRecord:
        """Raises FailedPrecondition where it has ended otherwise."""
        cancelling = await owner.cancel_batch(batch.id, "", int(self._clock()))
        self._engine.changed(cancelling)
        return cancelling
