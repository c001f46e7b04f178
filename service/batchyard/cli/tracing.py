"""The process's tracing, as the settings ask for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from batchyard.cli.errors import RunError
from batchyard.common import tracing
from batchyard.service.config.settings import Settings


@asynccontextmanager
async def opened(settings: Settings, process: str) -> AsyncIterator[tracing.Tracing]:
    """Tracing of a process of that name. Raises RunError where its packages are missing."""
    try:
        async with tracing.opened(on=settings.tracing, service=process, version=version("batchyard")) as traces:
            yield traces
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise RunError("tracing needs more packages; in a checkout: pip install '.[otel]'") from None
