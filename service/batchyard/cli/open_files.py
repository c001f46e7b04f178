"""How many files the process may have open: each connection is one, and so are the files that calls read and write."""

import logging
import resource
from dataclasses import replace

from batchyard.service.config.settings import Settings

_OWN = 256  # the registry, logs, objects that are read, listeners

log = logging.getLogger("batchyard.cli")


def fitted(settings: Settings) -> Settings:
    """The settings with as many calls at once as the process may have connections, and a warning where that is less.

    Raises the process's own limit as far as the system allows: `ulimit -n` is 1,024 on most machines, where hundreds of
    thousands are allowed.
    """
    most, own = settings.limits.max_concurrent_calls, _own(settings)
    files = _allowed(most + own)
    calls = max(1, files - own)
    if calls >= most:
        return settings
    message = "max_concurrent_calls is %d instead of %d: this process may have %d files open (ulimit -n)"
    log.warning(message, calls, most, files)
    return replace(settings, limits=replace(settings.limits, max_concurrent_calls=calls))


def _own(settings: Settings) -> int:
    """What is open beside the callers' connections at most: uploads on their way, and connections to providers."""
    lines = settings.local.max_concurrency if settings.local else 0
    away = len(settings.deployments) * settings.upstream.max_connections
    return _OWN + settings.limits.max_concurrent_uploads + lines + away


def _allowed(wanted: int) -> int:
    soft, hard = (most if most != resource.RLIM_INFINITY else max(wanted, 1 << 20) for most in _limits())
    raised = min(wanted, hard)
    if raised <= soft:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, _limits()[1]))
    except (OSError, ValueError):  # macOS has bounds that it doesn't tell
        return soft
    return raised


def _limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)
