"""The service's figures. Their labels have few values, all of them ours: no tenant, no id, nothing that callers write.

docs/metrics.md says what each means to an operator.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily

from batchyard.admin.v1 import admin_service_pb2
from batchyard.common.metrics import CALL_BUCKETS, OTHER, Look, Metrics, bound
from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import Status
from batchyard.service.jsonl.results import Kind
from batchyard.service.objects.local import FileStore
from batchyard.service.registry.work import WorkRegistry
from batchyard.service.upstream.health import Condition, State
from batchyard.v1.batch_service_pb2 import DESCRIPTOR

UPSTREAM_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_SERVICES = (DESCRIPTOR.services_by_name["BatchService"], admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"])
_METHODS = {f"/{service.full_name}/{method.name}": method.name for service in _SERVICES for method in service.methods}


class ServiceMetrics:
    """The instruments of one service, on the registry of its process."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        rpc_seconds = Histogram(
            "batchyard_rpc_duration_seconds",
            "How long RPCs took; streams, until they ended.",
            ("method", "code"),
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self.rpc_seconds = bound(rpc_seconds)
        running = Gauge("batchyard_rpcs_running", "RPCs that run now.", ("method",), registry=registry)
        self.rpcs_running = bound(running)
        self.uploaded = Counter("batchyard_upload_bytes", "Bytes of content that uploads brought.", registry=registry)
        self.downloaded = Counter(
            "batchyard_download_bytes", "Bytes of content that downloads took.", registry=registry
        )
        self._lines = Counter(
            "batchyard_lines", "Lines of batches that have a result.", ("provider", "outcome"), registry=registry
        )
        self.lines_running = Gauge("batchyard_lines_running", "Lines in flight now.", registry=registry)
        self.line_slots = Gauge("batchyard_line_slots", "The most lines in flight.", registry=registry)
        upstream_seconds = Histogram(
            "batchyard_upstream_duration_seconds",
            "How long calls to the endpoint that runs lines, or to a provider, took.",
            ("endpoint", "status"),
            buckets=UPSTREAM_BUCKETS,
            registry=registry,
        )
        self.upstream_seconds = bound(upstream_seconds)
        upstream_errors = Counter(
            "batchyard_upstream_errors", "Calls to the endpoint or provider that failed.", ("kind",), registry=registry
        )
        self.upstream_errors = bound(upstream_errors)
        upstream_retries = Counter(
            "batchyard_upstream_retries", "Calls that repeat a failed one, by its kind.", ("kind",), registry=registry
        )
        self.upstream_retries = bound(upstream_retries)
        self.commit_seconds = Histogram(
            "batchyard_registry_commit_duration_seconds",
            "How long a commit of the registry took, with all the writes that shared it.",
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self.audit_failing = Gauge(
            "batchyard_audit_failing", "Whether the audit log can't be written: 1 or 0.", registry=registry
        )
        self.clock_held = Gauge(
            "batchyard_clock_held", "Whether nothing expires by a clock that jumped ahead: 1 or 0.", registry=registry
        )
        self.files_expired = Counter(
            "batchyard_files_expired", "Files that were deleted because their time had come.", registry=registry
        )

    def lines(self, provider: str) -> Mapping[Kind, Counter]:
        """The counters of lines that this provider of our own has results for, each from 0 on."""
        return {kind: self._lines.labels(provider, kind.name.lower()) for kind in Kind}


def method_label(path: str) -> str:
    """The method of a call's path, `OTHER` for one that is not ours: a caller may send any."""
    return _METHODS.get(path, OTHER)


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


def deployments_look(conditions: Mapping[str, Condition]) -> Look:
    """Which deployments, by name, are healthy, of those of which it is known."""

    async def look() -> list[Metric]:
        text = "Whether a deployment can be reached: 1 or 0."
        healthy = GaugeMetricFamily("batchyard_deployment_healthy", text, labels=("deployment",))
        for name, condition in conditions.items():
            if condition.state is not State.UNKNOWN:
                healthy.add_metric((name,), condition.state is State.HEALTHY)
        return [healthy]

    return look


def store_look(store: FileStore, disk: Disk, folder: Path) -> Look:
    """What the store in `folder` holds, and what its disk still takes."""

    async def look() -> list[Metric]:
        free = await asyncio.to_thread(disk.free_bytes, folder)
        return [
            GaugeMetricFamily("batchyard_store_bytes", "Bytes that the file store holds.", store.room.held),
            GaugeMetricFamily("batchyard_store_free_bytes", "Bytes that the store's disk still takes.", free),
        ]

    return look
