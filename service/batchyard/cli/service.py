"""`batchyard service`: the gRPC service alone."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batchyard.cli import metrics, tracing
from batchyard.cli.errors import RunError
from batchyard.common.metrics import Metrics
from batchyard.common.signals import stop_signals
from batchyard.common.tracing import Tracing
from batchyard.service.config.settings import Settings
from batchyard.service.server import Server, StartupError, serving

log = logging.getLogger("batchyard.cli")


async def run(settings: Settings, *, accept_registry: bool) -> None:
    """Serves until a signal, then drains. Raises RunError where it can't start."""
    with stop_signals() as stop:
        async with (
            metrics.opened(settings) as figures,
            tracing.opened(settings, "batchyard-service") as traces,
            opened(settings, figures, traces, accept_registry=accept_registry) as server,
        ):
            log.info("gRPC on %s", server.address)
            await stop.wait()
            log.info("stopping")
            await server.drain(settings.drain_seconds)
    log.info("stopped")


@asynccontextmanager
async def opened(
    settings: Settings, figures: Metrics, traces: Tracing, *, accept_registry: bool = False
) -> AsyncIterator[Server]:
    """A running service. Raises RunError where it can't start."""
    try:
        async with serving(settings, figures, traces, accept_registry=accept_registry) as server:
            yield server
    except StartupError as error:
        raise RunError(str(error)) from None
