"""A gRPC channel to a service, whose certificates may change while it is open."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from batchyard.common.certificates import Pem, following, for_channel, read
from batchyard.common.pem import CertificateFiles

_LAST_CALLS_SECONDS = 3600.0

_AHEAD_BYTES = 32 << 10

# A server closes connections that are pinged more than once in five minutes without data.
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # What the service may send ahead on a call: gRPC's own guess is many MiB where this process gets little time, and
    # it holds as much for each download that nobody reads.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _AHEAD_BYTES),
)
"""Of every client of the service."""

Options = Sequence[tuple[str, Any]]


class Channel:
    """Calls begin on the channel `latest`. In clear text without `files`. Making one raises CertificateError."""

    def __init__(self, target: str, options: Options, files: CertificateFiles | None) -> None:
        self._target = target
        self._options = options
        self._files = files
        self.pem = read(files or CertificateFiles())
        self.latest = self._opened(self.pem)
        self._older: dict[aio.Channel, asyncio.Task[None]] = {}

    def take(self, pem: Pem) -> None:
        """New calls begin on a channel with these; those that run have another hour. Raises CertificateError."""
        old, self.latest = self.latest, self._opened(pem)
        closing = self._older[old] = asyncio.create_task(old.close(_LAST_CALLS_SECONDS))
        closing.add_done_callback(lambda _: self._older.pop(old, None))

    async def close(self) -> None:
        """Ends all calls."""
        older = dict(self._older)
        for closing in older.values():
            closing.cancel()
        await asyncio.gather(*older.values(), return_exceptions=True)
        for channel in (self.latest, *older):
            await channel.close()

    def _opened(self, pem: Pem) -> aio.Channel:
        if self._files is None:
            return aio.insecure_channel(self._target, options=self._options)
        return aio.secure_channel(self._target, for_channel(self._files, pem), options=self._options)


@asynccontextmanager
async def opened(target: str, options: Options, files: CertificateFiles | None, every: float) -> AsyncIterator[Channel]:
    """A channel to `target` (HOST:PORT or unix:PATH); the files are looked at each `every` seconds.

    Raises CertificateError.
    """
    channel = Channel(target, options, files)
    try:
        if files is None:
            yield channel
        else:
            async with following(files, channel.pem, "service", every, channel.take):
                yield channel
    finally:
        await channel.close()
