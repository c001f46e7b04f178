"""`batchyard serve`: service and shim in one process, which calls the other directly."""

import asyncio
import logging
from dataclasses import replace
from secrets import token_urlsafe

from batchyard.cli import metrics, service, shim, tracing
from batchyard.common.http.listeners import Listener
from batchyard.common.signals import stop_signals
from batchyard.service.config.settings import Settings
from batchyard.service.server import Server

log = logging.getLogger("batchyard.cli")


async def run(settings: Settings, *, accept_registry: bool) -> None:
    """Serves until a signal, then drains. Raises RunError where it can't start."""
    keyless = not (settings.master_key or settings.keys)
    settings = replace(settings, shim_secret=settings.shim_secret or token_urlsafe())
    with stop_signals() as stop:
        async with (
            metrics.opened(settings) as figures,
            tracing.opened(settings, "batchyard") as traces,
            service.opened(settings, figures, traces, accept_registry=accept_registry) as server,
            shim.opened(settings, server.caller, figures, traces, keyless=keyless) as listener,
        ):
            log.info("REST on %s, gRPC on %s", listener.url, server.address)
            await stop.wait()
            log.info("stopping")
            await _drain(listener, server, settings.drain_seconds)
    log.info("stopped")


async def _drain(listener: Listener, server: Server, seconds: float) -> None:
    """Health first, then REST, so that its running requests still have a service; `seconds` is for all together."""
    await server.announce()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    await listener.drain(seconds)
    await server.drain(max(0.0, end - loop.time()))
