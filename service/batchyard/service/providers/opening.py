"""Opens the deployments of the settings as providers: client, dialect, registry and follower of each."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from batchyard.common.tracing import Tracing
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.places import UploadPlaces
from batchyard.service.providers import identity
from batchyard.service.providers.azure import Azure
from batchyard.service.providers.creating import Creating
from batchyard.service.providers.early_looks import EarlyLooks
from batchyard.service.providers.follower import Follower
from batchyard.service.providers.openai import OpenAI
from batchyard.service.providers.own import OwnBatches
from batchyard.service.providers.remote import RemoteProvider
from batchyard.service.registry.database import Database
from batchyard.service.registry.remote import RemoteRegistry
from batchyard.service.settings import Deployment, Settings
from batchyard.service.upstream import http
from batchyard.service.upstream.client import UpstreamClient
from batchyard.service.upstream.condition import Condition


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
            http.opened(
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
        credential = await self._stack.enter_async_context(identity.opened(deployment))
        return Azure(deployment, self._settings.upstream, credential)
