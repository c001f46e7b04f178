"""Opens the deployments of the settings as providers: client, dialect, registry and follower of each."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from batchyard.common.tracing import Tracing
from batchyard.service.access.upload_slots import UploadPlaces
from batchyard.service.config.settings import Deployment, Settings
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.providers.azure import credentials
from batchyard.service.providers.azure.dialect import Azure
from batchyard.service.providers.local.batches import OwnBatches
from batchyard.service.providers.openai.dialect import OpenAI
from batchyard.service.providers.remote.create import Creating
from batchyard.service.providers.remote.early_looks import EarlyLooks
from batchyard.service.providers.remote.poller import Follower
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.service.registry.base import Database
from batchyard.service.registry.deployment import RemoteRegistry
from batchyard.service.upstream import transport
from batchyard.service.upstream.client import UpstreamClient
from batchyard.service.upstream.health import Condition


class Opener:
    """Opens one deployment after the other; `stack` closes what they need."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        touch: Callable[[int], None],
        batches: OwnBatches,
        places: UploadPlaces,
        metrics: ServiceMetrics,
        tracing: Tracing,
        clock: Callable[[], float],
        steady: Callable[[], float],
        stack: AsyncExitStack,
    ) -> None:
        """`steady` is a clock that never jumps."""
        self._settings = settings
        self._database = database
        self._touch = touch
        self._batches = batches
        self._places = places
        self._metrics = metrics
        self._tracing = tracing
        self._clock = clock
        self._steady = steady
        self._stack = stack

    async def opened(self, deployment: Deployment) -> RemoteProvider:
        """A provider whose follower runs. Raises MissingExtra."""
        settings, limits = self._settings.upstream, self._settings.limits
        dialect = await self._dialect(deployment)
        session = await self._stack.enter_async_context(
            transport.opened(
                connections=settings.max_connections,
                connect=settings.connect_seconds,
                read=settings.idle_seconds,
            )
        )
        condition = Condition(self._steady, self._clock)
        client = UpstreamClient(session, deployment, dialect, condition, settings, self._metrics, self._tracing)
        registry = RemoteRegistry(self._database, deployment.name, self._touch)
        creating = Creating(client, dialect, registry, limits, deployment.provider, settings.doubt_seconds, self._clock)
        early = EarlyLooks(dialect.early_looks, condition, self._steady)
        follower = Follower(client, dialect, registry, creating, self._clock, early)
        await self._stack.enter_async_context(follower.running())
        return RemoteProvider(
            client, dialect, registry, creating, follower, self._batches, settings, limits, self._places, self._clock
        )

    async def _dialect(self, deployment: Deployment) -> OpenAI:
        if deployment.provider == "openai":
            return OpenAI(deployment, self._settings.upstream)
        credential = await self._stack.enter_async_context(credentials.opened(deployment))
        return Azure(deployment, self._settings.upstream, credential)
