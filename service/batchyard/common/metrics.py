"""What a process counts and measures, and the HTTP application that shows it to Prometheus.

A process has one `Metrics`, made by its command and handed to all who measure: they make their instruments on its
`registry`. Whoever can reach the listener may read them, so no instrument has a label that callers choose freely.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Info, Metric, PlatformCollector, ProcessCollector, exposition
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics import exposition as openmetrics

from batchyard.common.http import envelope

PATH = "/metrics"
CALL_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds of a call or request, for histograms."""
OTHER = "-"
"""The label of everything that is not one of ours: a route, a method."""
_LOOK_SECONDS = 5.0  # Prometheus gives up after 10
_PLAIN = (exposition.CONTENT_TYPE_PLAIN_0_0_4, exposition.generate_latest)
_OPEN = (openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest)

Look = Callable[[], Awaitable[Iterable[Metric]]]

I = TypeVar("I", bound=MetricWrapperBase)  # noqa: E741

log = logging.getLogger("batchyard.metrics")


def bound(instrument: I) -> Callable[..., I]:
    """An instrument's `labels`, which looks each combination up once. Labels have few values, whoever calls."""
    return lru_cache(maxsize=1024)(instrument.labels)


class Metrics:
    """A registry of instruments, with the process's own figures and `batchyard_info` in it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        info = Info("batchyard", "Which version of Batchyard this is; always 1.", registry=self.registry)
        info.info({"version": version("batchyard")})
        self._looks: list[Look] = []

    @contextmanager
    def asking(self, look: Look) -> Iterator[None]:
        """Asks `look` at each scrape for figures that are kept elsewhere, until the context ends.

        Those of a look that fails, or takes longer than 5 seconds, are missing from that scrape.
        """
        self._looks.append(look)
        try:
            yield
        finally:
            self._looks.remove(look)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application: GET /metrics, as OpenMetrics where the request accepts it, and nothing else."""
        if scope["path"] != PATH:
            await _refuse(send, 404, "There is only /metrics here.")
        elif scope["method"] not in {"GET", "HEAD"}:
            await _refuse(send, 405, "The metrics can only be read.", (b"allow", b"GET, HEAD"))
        else:
            scope["route"] = SimpleNamespace(path=PATH)  # for the log
            accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
            kind, write = _OPEN if b"application/openmetrics-text" in accept else _PLAIN
            shown = _Shown(self.registry, await self._found())
            await _answer(send, 200, kind, await asyncio.to_thread(write, shown))

    async def _found(self) -> list[Metric]:
        looked = await asyncio.gather(*map(_looked, self._looks))
        return [metric for metrics in looked for metric in metrics]


class _Shown:
    """What a scrape shows. The library dates each series by a series of its own, which would double their number."""

    def __init__(self, registry: CollectorRegistry, found: Sequence[Metric]) -> None:
        self._registry = registry
        self._found = found

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
        yield from self._found


async def _looked(look: Look) -> Iterable[Metric]:
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            return await look()
    except Exception:
        log.exception("figures are missing from a scrape")
        return ()


async def _refuse(send: Any, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    await _answer(send, status, "application/json", envelope.body(envelope.error(status, message)), *headers)


async def _answer(send: Any, status: int, kind: str, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    head = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
