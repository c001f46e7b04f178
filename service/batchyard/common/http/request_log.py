"""Where each HTTP request is entered, once: a line in the log, the figures that Prometheus is shown, and its trace."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from batchyard.common.metrics import CALL_BUCKETS, OTHER, Metrics, bound
from batchyard.common.tracing import OFF, Span, Tracing

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = logging.getLogger("batchyard.shim")


def route_of(scope: Mapping[str, Any]) -> str:
    """The template of the route that took the request, `OTHER` where none has."""
    return getattr(scope.get("route"), "path", OTHER)


class RequestLog:
    """The requests of one listener, and of the application behind it. A registry takes one."""

    def __init__(self, metrics: Metrics, tracing: Tracing = OFF) -> None:
        self._tracing = tracing
        registry = metrics.registry
        seconds = Histogram(
            "batchyard_rest_request_duration_seconds",
            "How long REST requests took, from their head to the end of the answer.",
            ("route", "method", "status"),
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self._running = Gauge("batchyard_rest_requests_running", "REST requests that run now.", registry=registry)
        received = Counter(
            "batchyard_rest_received_bytes", "Bytes of request bodies, as they came.", ("route",), registry=registry
        )
        sent = Counter(
            "batchyard_rest_sent_bytes", "Bytes of answers' bodies, as they left.", ("route",), registry=registry
        )
        self._seconds, self._received, self._sent = bound(seconds), bound(received), bound(sent)

    @contextmanager
    def running(self, scope: Mapping[str, Any]) -> Iterator[Span]:
        """Around a request that runs."""
        with self._running.track_inprogress(), self._tracing.span("request", "server", scope["headers"]) as span:
            yield span

    def received(self, scope: Mapping[str, Any], size: int) -> None:
        """Takes note of a piece of a request's body."""
        if size:
            self._received(route_of(scope)).inc(size)

    def sent(self, scope: Mapping[str, Any], size: int) -> None:
        """Takes note of a piece of an answer's body."""
        if size:
            self._sent(route_of(scope)).inc(size)

    def enter(
        self,
        name: str,
        status: int,
        *,
        method: str = OTHER,
        route: str = OTHER,
        seconds: float = 0.0,
        sent: int = 0,
        span: Span | None = None,
    ) -> None:
        """Enters the request `name`, which has ended; our own faults are errors. `sent` is for the log."""
        known = method if method in _METHODS else OTHER
        if span:
            _describe(span, name, status, known, route)
        self._seconds(route, known, status).observe(seconds)
        extra = {
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
            "request_id": name,
            "bytes": sent,
        }
        log.log(logging.ERROR if status >= 500 else logging.INFO, "request", extra=extra)

    def refuse(self, name: str, status: int, size: int, *, method: str = OTHER) -> None:
        """Enters the request `name`, which the server answered itself, with a body of `size` bytes."""
        self.sent({}, size)
        self.enter(name, status, method=method, sent=size)


def _describe(span: Span, name: str, status: int, method: str, route: str) -> None:
    span.named(f"{method} {route}")
    span.mark(http__request__method=method, http__route=route, http__response__status_code=status)
    span.mark(batchyard__request_id=name)
    if status >= 500:
        span.failed(str(status))
