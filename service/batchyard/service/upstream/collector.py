"""Figures of the deployments."""

from collections.abc import Mapping

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from batchyard.common.metrics import Look
from batchyard.service.upstream.health import Condition, HealthState


def deployments_look(conditions: Mapping[str, Condition]) -> Look:
    """Which deployments, by name, are healthy, of those of which it is known."""

    async def look() -> list[Metric]:
        text = "Whether a deployment can be reached: 1 or 0."
        healthy = GaugeMetricFamily("batchyard_deployment_healthy", text, labels=("deployment",))
        for name, condition in conditions.items():
            if condition.state is not HealthState.UNKNOWN:
                healthy.add_metric((name,), condition.state is HealthState.HEALTHY)
        return [healthy]

    return look
