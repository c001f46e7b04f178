"""`batchyard shim`: the REST shim alone, in front of a service that runs elsewhere."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batchyard.cli import metrics, tracing
from batchyard.cli.errors import RunError
from batchyard.common.addresses import address
from batchyard.common.calls import Caller
from batchyard.common.certificates import CertificateError, serving_with
from batchyard.common.http.listeners import Listener, ListenError, listening
from batchyard.common.http.middleware import Application
from batchyard.common.http.pages import NoPages
from batchyard.common.http.request_log import RequestLog
from batchyard.common.metrics import Metrics
from batchyard.common.signals import stop_signals
from batchyard.common.tracing import Tracing
from batchyard.service.config.hosts import is_loopback
from batchyard.service.config.settings import Settings
from batchyard.shim.app import create_app
from batchyard.shim.caller import connect

log = logging.getLogger("batchyard.cli")


async def run(settings: Settings) -> None:
    """Serves until a signal, then drains. Raises RunError where it can't listen."""
    near = settings.service_socket
    target = settings.service_address or (near.target if near else address("127.0.0.1", settings.grpc_port))
    with stop_signals() as stop:
        async with (
            metrics.opened(settings) as figures,
            tracing.opened(settings, "batchyard-shim") as traces,
            alone(settings, target, figures, traces) as listener,
        ):
            log.info("REST on %s, service at %s", listener.url, target)
            await stop.wait()
            log.info("stopping")
            await listener.drain(settings.drain_seconds)
    log.info("stopped")


@asynccontextmanager
async def alone(settings: Settings, target: str, figures: Metrics, traces: Tracing) -> AsyncIterator[Listener]:
    """A shim that listens, in front of the service at `target`.

    Raises RunError where it can't listen, and for certificates that can't be used.
    """
    tls = settings.tls
    try:
        async with (
            connect(target, traces, tls.client, tls.reload_seconds, settings.shim_secret or "") as caller,
            opened(settings, caller, figures, traces) as listener,
        ):
            yield listener
    except CertificateError as error:
        raise RunError(str(error)) from None


@asynccontextmanager
async def opened(
    settings: Settings,
    caller: Caller,
    figures: Metrics,
    traces: Tracing,
    *,
    keyless: bool = False,
) -> AsyncIterator[Listener]:
    """A shim that listens, in front of the service that `caller` reaches.

    A `keyless` service takes callers without a key. Raises RunError where it can't listen.
    """
    limits, request_log, every = settings.limits, RequestLog(figures, traces), settings.tls.reload_seconds
    idle = limits.upload_idle_seconds
    try:
        async with (
            serving_with(settings.tls.server, "REST", every) as certificates,
            listening(
                _guarded(
                    create_app(caller, idle=idle, request_log=request_log), settings, request_log, keyless=keyless
                ),
                settings.host,
                settings.port,
                max_requests=limits.max_concurrent_calls,
                idle_seconds=idle,
                request_log=request_log,
                certificates=certificates,
                instead=settings.rest_socket,
            ) as listener,
        ):
            yield listener
    except (ListenError, CertificateError) as error:
        raise RunError(str(error)) from None


def _guarded(app: Application, settings: Settings, request_log: RequestLog, *, keyless: bool) -> Application:
    """The application, where web pages could reach it kept from them."""
    open_to_pages = keyless and is_loopback(settings.host) and not settings.rest_socket
    return NoPages(app, settings.host, request_log) if open_to_pages else app
