"""`batchyard shim`: the REST shim alone, in front of a service that runs elsewhere."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batchyard.cli import metrics, tracing
from batchyard.cli.errors import RunError
from batchyard.common.addresses import address
from batchyard.common.ledger import Ledger
from batchyard.common.listeners import Listener, ListenError, listening
from batchyard.common.metrics import Metrics
from batchyard.common.signals import stop_signals
from batchyard.common.tracing import Tracing
from batchyard.service.settings import Settings
from batchyard.shim.app import create_app
from batchyard.shim.caller import connect

log = logging.getLogger("batchyard.cli")


async def run(settings: Settings) -> None:
    """Serves until a signal, then drains. Raises RunError where it can't listen."""
    target = settings.service_address or address("127.0.0.1", settings.grpc_port)
    with stop_signals() as stop:
        async with (
            metrics.opened(settings) as figures,
            tracing.opened(settings, "batchyard-shim") as traces,
            opened(settings, target, figures, traces) as listener,
        ):
            log.info("REST on http://%s, service at %s", address(settings.host, listener.port), target)
            await stop.wait()
            log.info("stopping")
            await listener.drain(settings.drain_seconds)
    log.info("stopped")


@asynccontextmanager
async def opened(settings: Settings, target: str, figures: Metrics, traces: Tracing) -> AsyncIterator[Listener]:
    """A shim that listens, in front of the service at `target` (HOST:PORT). Raises RunError where it can't listen."""
    limits, ledger = settings.limits, Ledger(figures, traces)
    try:
        async with connect(target, traces, settings.shim_secret) as caller:
            idle, requests = limits.upload_idle_seconds, limits.max_concurrent_calls
            app = create_app(caller, idle=idle, ledger=ledger)
            async with listening(
                app, settings.host, settings.port, max_requests=requests, idle_seconds=idle, ledger=ledger
            ) as listener:
                yield listener
    except ListenError as error:
        raise RunError(str(error)) from None
