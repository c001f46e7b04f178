"""What is known of the deployments and of the model groups at them, as `AdminService` tells it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from batchyard.admin.v1 import CheckHealthResponse, Deployment, DeploymentState, Endpoint, Member
from batchyard.service.config.names import GROUPS
from batchyard.service.domain.keys import Caller, KeyRecord
from batchyard.service.errors import NotFound
from batchyard.service.groups.member import MemberState
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.service.upstream.health import HealthState

_NEWS_SECONDS = 10.0  # for which a condition is not asked for again
_STATES = {
    HealthState.UNKNOWN: DeploymentState.DEPLOYMENT_STATE_UNKNOWN,
    HealthState.HEALTHY: DeploymentState.DEPLOYMENT_STATE_HEALTHY,
    HealthState.UNHEALTHY: DeploymentState.DEPLOYMENT_STATE_UNHEALTHY,
}


Members = Callable[[], Awaitable[Sequence[MemberState]]]
"""The members of all groups."""


class _Served(NamedTuple):
    """A model at a deployment, behind its provider's name, and the group that it is in."""

    at: RemoteProvider
    model: str
    group: str | None

    def fits(self, place: str, model: str) -> bool:
        """Whether both name it; an empty name stands for any."""
        models = {"", self.group, self.model, self.model.partition("/")[2]}
        return place in {"", self.at.name, self.at.place} and model in models

    def is_for(self, key: KeyRecord) -> bool:
        """Whether a key may use it: there, or by its group."""
        if self.group is None:
            return key.serves(self.at.name, self.at.place)
        groups = not key.providers or GROUPS in key.providers
        return key.batches_over(self.group) and (groups or key.serves(self.at.name, self.at.place))

    def message(self, *, whole: bool) -> Endpoint:
        """`whole`: with what only those who run the service may know."""
        condition = self.at.condition
        return Endpoint(
            model=self.model,
            api_base=self.at.deployment.api_base if whole else None,
            model_name=self.group,
            deployment=self.at.place,
            provider=self.at.name,
            mode="batch",
            error=condition.error if whole and not self.at.available else None,
            latency_ms=_milliseconds(condition.latency),
        )


class DeploymentStatus:
    """The deployments, in the order of the configuration."""

    def __init__(self, providers: Sequence[RemoteProvider], members: Members) -> None:
        self._providers = providers
        self._members = members

    async def listed(self) -> list[Deployment]:
        """Each with its members, as it is known to be."""
        members = await self._members()
        return [_deployment(at, [one for one in members if one.deployment == at.place]) for at in self._providers]

    async def checked(self, place: str, model: str, caller: Caller) -> CheckHealthResponse:
        """The models that both name and the caller may use, after a look at deployments of which there is no news.

        Raises NotFound.
        """
        key, whole = caller.key, caller.master
        served = [one for one in await self._served() if one.fits(place, model) and (not key or one.is_for(key))]
        if model and not served:
            raise NotFound(f"There is no model '{model}' here.", param="model")
        await asyncio.gather(*(at.probe(_NEWS_SECONDS) for at in {one.at for one in served}))
        healthy = [one.message(whole=whole) for one in served if one.at.available]
        unhealthy = [one.message(whole=whole) for one in served if not one.at.available]
        return CheckHealthResponse(
            healthy_endpoints=healthy,
            unhealthy_endpoints=unhealthy,
            healthy_count=len(healthy),
            unhealthy_count=len(unhealthy),
        )

    async def _served(self) -> list[_Served]:
        members = await self._members()
        found: list[_Served] = []
        for at in self._providers:
            there = [_Served(at, f"{at.name}/{one.model}", one.group) for one in members if one.deployment == at.place]
            found += there or [_Served(at, f"{at.name}/*", None)]
        return found


def _deployment(at: RemoteProvider, members: Sequence[MemberState]) -> Deployment:
    condition = at.condition
    return Deployment(
        name=at.place,
        provider=at.name,
        api_base=at.deployment.api_base,
        state=_STATES[condition.state],
        latency_ms=_milliseconds(condition.latency),
        last_error=condition.error,
        last_error_at=condition.error_at,
        checked_at=condition.checked_at,
        members=[_member(one) for one in members],
    )


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(1000 * seconds)


def _member(state: MemberState) -> Member:
    return Member(
        group=state.group,
        name=state.name,
        model=state.model,
        order=state.order,
        weight=state.weight,
        enqueued_tokens_limit=state.limit,
        enqueued_tokens=state.enqueued,
        shards=state.shards,
        paused_until=state.paused_until,
        last_refusal=state.refusal,
    )
