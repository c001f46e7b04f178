"""The listener for Prometheus, apart from all others: it needs no key, and lives as long as the process serves."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batchyard.cli.errors import RunError
from batchyard.common.certificates import CertificateError, serving_with
from batchyard.common.http.listeners import ListenError, listening
from batchyard.common.http.middleware import RequestMiddleware
from batchyard.common.http.request_log import RequestLog
from batchyard.common.metrics import PATH, Metrics
from batchyard.service.config.settings import Settings

_MOST_SCRAPES = 8

log = logging.getLogger("batchyard.cli")


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Metrics]:
    """The process's figures, shown where the settings ask for it. Raises RunError where it can't listen."""
    metrics = Metrics()
    if settings.metrics_port is None:
        yield metrics
        return
    request_log = RequestLog(Metrics())  # scrapes are logged, and in nobody's figures
    app = RequestMiddleware(metrics.app, request_log)
    tls, host, port = settings.tls, settings.host, settings.metrics_port
    try:
        async with (
            serving_with(tls.server, "metrics", tls.reload_seconds) as certificates,
            listening(
                app, host, port, max_requests=_MOST_SCRAPES, request_log=request_log, certificates=certificates
            ) as listener,
        ):
            log.info("metrics on %s%s", listener.url, PATH)
            yield metrics
    except (ListenError, CertificateError) as error:
        raise RunError(str(error)) from None
