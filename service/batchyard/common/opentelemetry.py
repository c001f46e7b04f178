"""Tracing through the OpenTelemetry SDK; imported only where it is on."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from batchyard.common.tracing import Kind, Pairs, Span, Tracing

_KINDS = {
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "internal": trace.SpanKind.INTERNAL,
}


class OpenTelemetry(Tracing):
    """Sends spans to an OTLP endpoint over gRPC, in the background; those that it can't take are dropped."""

    def __init__(self, service: str, version: str) -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what is given here only where it is not.
        own = {"service.version": version}
        named = Resource.create(own)
        if str(named.attributes.get("service.name", "")).startswith("unknown_service"):
            named = Resource.create({**own, "service.name": service})
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("batchyard", version)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, kind: Kind, above: Pairs = ()) -> Iterator[Span]:
        carried = {_text(key): _text(value) for key, value in above if _text(key) in self._propagator.fields}
        context = self._propagator.extract(carried) if carried else None
        with self._tracer.start_as_current_span(
            name, context=context, kind=_KINDS[kind], record_exception=False, set_status_on_exception=False
        ) as span:
            yield _Span(span)

    def carrier(self) -> dict[str, str]:
        found: dict[str, str] = {}
        self._propagator.inject(found)
        return found

    def close(self) -> None:
        """Sends what is left, which may take long where the collector is away."""
        self._provider.shutdown()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


class _Span(Span):
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def named(self, name: str) -> None:
        self._span.update_name(name)

    def mark(self, **attributes: str | int) -> None:
        self._span.set_attributes({name.replace("__", "."): value for name, value in attributes.items()})

    def failed(self, what: str) -> None:
        self._span.set_status(trace.StatusCode.ERROR, what)
