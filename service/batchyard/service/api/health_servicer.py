"""grpc.health.v1 for the service: SERVING until the drain begins, which also ends whoever watches."""

import asyncio

from grpc_health.v1 import health, health_pb2

from batchyard.service.api.message_reader import Context

_LAST_WORD_SECONDS = 0.1


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """The library's servicer, whose watches would otherwise hold a drain up to its end."""

    def __init__(self) -> None:
        super().__init__()
        self._stopping = asyncio.Event()

    async def stop(self) -> None:
        """Says NOT_SERVING from now on, to watchers too, and ends their calls."""
        await self.enter_graceful_shutdown()
        self._stopping.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        watch = asyncio.ensure_future(super().Watch(request, context))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({watch, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                await asyncio.wait({watch}, timeout=_LAST_WORD_SECONDS)
        finally:
            watch.cancel()
            stopping.cancel()
