"""Figures of the batches in the registry."""

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from batchyard.common.metrics import Look
from batchyard.service.domain.records import Status
from batchyard.service.registry.work import WorkRegistry


def batches_look(work: WorkRegistry, clock: Callable[[], float], providers: Iterable[str] = ()) -> Look:
    """Batches of all tenants: by status, those in progress by provider, and how long the oldest has waited to start.

    `providers` are shown also where nothing is in progress.
    """

    async def look() -> list[Metric]:
        counts, running, oldest = await work.standing()
        batches = GaugeMetricFamily("batchyard_batches", "Batches in the registry.", labels=("status",))
        for status in Status:
            batches.add_metric((status,), counts.get(status, 0))
        text = "Batches in progress, by their provider."
        in_progress = GaugeMetricFamily("batchyard_batches_in_progress", text, labels=("provider",))
        for provider in {**dict.fromkeys(providers, 0), **running}:
            in_progress.add_metric((provider,), running.get(provider, 0))
        age = 0.0 if oldest is None else max(0.0, clock() - oldest)
        text = "How long the oldest batch whose lines have not started has waited."
        return [batches, in_progress, GaugeMetricFamily("batchyard_queue_age_seconds", text, age)]

    return look
