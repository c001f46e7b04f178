"""The service's figures. Their labels have few values, all of them ours: no tenant, no id, nothing that callers write.

docs/metrics.md says what each means to an operator.
"""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from batchyard.admin.v1 import admin_service_pb2
from batchyard.common.metrics import CALL_BUCKETS, OTHER, Metrics, bound
from batchyard.service.domain.records import Kind
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
