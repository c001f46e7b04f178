"""OpenTelemetry tracing: one trace from a REST request through the service to the calls that its batch's lines cost.

Off, it costs a call of a function that does nothing. On, it needs the extra `otel`; the SDK's own variables
(OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, ...) say where spans go and how many.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from threading import Thread
from typing import Literal

Kind = Literal["server", "client", "internal"]
Pairs = Iterable[tuple[str | bytes, str | bytes]]

_FLUSH_SECONDS = 5.0


class Span:
    """One step of a trace; this one is recorded nowhere."""

    def named(self, name: str) -> None:
        """Says what the step was, where that shows only later."""

    def mark(self, **attributes: str | int) -> None:
        """Adds attributes; two underscores in a name stand for a dot. Never a key, an id of a tenant, or content."""

    def failed(self, what: str) -> None:
        """Marks the step as gone wrong."""


_UNRECORDED = nullcontext(Span())


class Tracing:
    """Where spans are made. As it is, tracing is off."""

    def span(self, name: str, kind: Kind, above: Pairs = ()) -> AbstractContextManager[Span]:
        """A step that lasts as long as the context, below the one that is running here.

        `above` are the headers or the metadata of a request, which may name another (W3C Trace Context).
        """
        return _UNRECORDED

    def carrier(self) -> dict[str, str]:
        """The headers or metadata that hand the running step on; empty where there is none."""
        return {}


OFF = Tracing()


@asynccontextmanager
async def opened(*, on: bool, service: str, version: str) -> AsyncIterator[Tracing]:
    """Tracing for a process that calls itself `service`; what is recorded has left when the context ends.

    Raises ModuleNotFoundError where it is on and the extra isn't installed.
    """
    if not on:
        yield OFF
        return
    from batchyard.common.opentelemetry import OpenTelemetry  # noqa: PLC0415 - an extra

    tracing = OpenTelemetry(service, version)
    try:
        yield tracing
    finally:
        # The SDK takes its time for a collector that is away, so nobody waits for that thread for longer than this.
        closing = Thread(target=tracing.close, name="tracing-close", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _FLUSH_SECONDS)
