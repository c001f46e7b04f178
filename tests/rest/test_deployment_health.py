"""GET /health and AdminService.ListDeployments: which models can be reached, and what is known of deployments."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from tests.deployments import QUICK, deployment_of
from tests.harness import refused
from tests.providers.remotes import Clock, remotes
from tests.upstream.azure import fake_azure
from tests.upstream.faults import Answer, Hang, to
from tests.upstream.openai import fake_openai
from tests.upstream.store import Upstream as Fake

from batchyard.admin.v1 import (
    AdminServiceStub,
    CheckHealthRequest,
    Deployment,
    DeploymentState,
    ListDeploymentsRequest,
    Member,
)
from batchyard.service.access.caller import current_caller
from batchyard.service.api.admin_servicer import AdminServicer
from batchyard.service.api.deployment_status import DeploymentStatus
from batchyard.service.background import Mutations
from batchyard.service.domain.keys import Caller
from batchyard.service.errors import NotFound, PermissionDenied
from batchyard.service.groups.member import MemberState
from batchyard.service.providers.router import Router

from .conftest import BEARER, Door, opened, refusal

CONTEXT: Any = None  # which these calls don't need
NO_KEYS: Any = None  # nor do they any of these
LIST = to("GET", "/batches")
MEMBERS = [
    MemberState("yard", "east/mini", "mini", "azure", 1, 2.5, 900, 300, 2, 1_700_000_000, "token_limit_exceeded"),
    MemberState("yard", "west/mini", "gpt-mini", "openai", 2, 1.0, None, 0, 0, None, None),
    MemberState("other", "east/large", "large", "azure", 1, 1.0, None, 0, 0, None, None),
]


def given(message: Message) -> set[str]:
    """The fields that are set."""
    return {field.name for field, _ in message.ListFields()}


@dataclass
class Scene:
    """A front door before an account at Azure and one at OpenAI."""

    door: Door
    azure: Fake
    openai: Fake

    async def health(self, query: str = "", **headers: str) -> dict[str, Any]:
        answer = await self.door.rest.get(f"/health{query}", headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Any]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.door.server.grpc_port}") as channel:
            yield AdminServiceStub(channel)

    async def deployments(self) -> list[Deployment]:
        async with self.admin() as stub:
            answer = await stub.ListDeployments(ListDeploymentsRequest(), metadata=self.door.grpc.metadata)
            return list(answer.deployments)

    def probes(self) -> tuple[int, int]:
        """How many lists each account was asked for."""
        return sum(map(LIST, self.azure.requests)), sum(map(LIST, self.openai.requests))


@asynccontextmanager
async def before(folder: Path, clock: Clock, **settings: Any) -> AsyncIterator[Scene]:
    async with fake_azure() as azure, fake_openai() as openai:
        deployments = (deployment_of("azure", azure), deployment_of("openai", openai))
        known = {"local": None, "deployments": deployments, "default_provider": "azure", "upstream": QUICK, **settings}
        async with opened(folder, clock=clock, **known) as door:
            yield Scene(door, azure, openai)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def scene(tmp_path: Path, clock: Clock) -> AsyncIterator[Scene]:
    async with before(tmp_path, clock) as running:
        yield running


class TestHealth:
    async def test_asks_and_tells_what_can_be_reached(self, scene: Scene) -> None:
        found = await scene.health()
        assert set(found) == {"healthy_endpoints", "unhealthy_endpoints", "healthy_count", "unhealthy_count"}
        assert (found["healthy_count"], found["unhealthy_count"], found["unhealthy_endpoints"]) == (2, 0, [])
        latencies = [endpoint.pop("latency_ms") for endpoint in found["healthy_endpoints"]]
        assert all(isinstance(one, int) for one in latencies)
        assert found["healthy_endpoints"] == [
            {
                "model": f"{name}/*",
                "api_base": fake.api_base,
                "deployment": name,
                "provider": name,
                "mode": "batch",
            }
            for name, fake in (("azure", scene.azure), ("openai", scene.openai))
        ]
        assert scene.probes() == (1, 1)

    async def test_tells_what_is_wrong_with_the_others(self, scene: Scene) -> None:
        scene.azure.key = "sk-another"
        scene.openai.fault(Answer(503, {"error": {"message": "raw words"}}), 1, LIST)
        found = await scene.health()
        assert (found["healthy_count"], found["unhealthy_count"], found["healthy_endpoints"]) == (0, 2, [])
        azure, openai = found["unhealthy_endpoints"]
        assert (azure["model"], openai["model"]) == ("azure/*", "openai/*")
        assert "refused the credentials" in azure["error"]
        assert openai["error"] == "The provider answered with HTTP status 503."

    async def test_asks_again_only_after_ten_seconds(self, scene: Scene, clock: Clock) -> None:
        await scene.health()
        scene.openai.fault(Answer(503), 1, LIST)
        clock.now += 9
        assert (await scene.health())["healthy_count"] == 2
        assert scene.probes() == (1, 1)
        clock.now += 1
        assert (await scene.health())["healthy_count"] == 1
        clock.now += 10
        assert (await scene.health())["healthy_count"] == 2

    async def test_of_one_that_does_not_answer_comes_all_the_same(self, tmp_path: Path, clock: Clock) -> None:

        async with before(tmp_path, clock, upstream=replace(QUICK, call_seconds=0.2)) as scene:
            scene.azure.fault(Hang(), 1, LIST)
            found = await scene.health()
            assert [one["deployment"] for one in found["healthy_endpoints"]] == ["openai"]
            assert "did not answer" in found["unhealthy_endpoints"][0]["error"]

    @pytest.mark.parametrize("query", ["?model=azure/*", "?provider=azure", "?provider=azure&model=*"])
    async def test_asks_only_those_that_are_meant(self, scene: Scene, query: str) -> None:
        found = await scene.health(query)
        assert [one["deployment"] for one in found["healthy_endpoints"]] == ["azure"]
        assert scene.probes() == (1, 0)

    async def test_of_a_model_or_provider_that_is_not_there_is_refused(self, scene: Scene) -> None:
        error = refusal(await scene.door.rest.get("/health?model=x"), 404)
        assert (error["message"], error["param"]) == ("There is no model 'x' here.", "model")
        assert refusal(await scene.door.rest.get("/health?provider=moon"), 400)["param"] == "provider"
        assert scene.probes() == (0, 0)

    async def test_takes_a_key(self, scene: Scene) -> None:
        refusal(await scene.door.rest.get("/health", headers={"authorization": ""}), 401)
        refusal(await scene.door.rest.get("/health", headers={"authorization": "Bearer sk-wrong"}), 401)
        assert (await scene.health(**BEARER))["healthy_count"] == 2

    async def test_is_read_with_get_alone_and_beside_the_probes(self, scene: Scene) -> None:
        rest = scene.door.rest
        for verb in ("HEAD", "POST", "DELETE"):
            answer = await rest.request(verb, "/health")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        for path in ("/health/liveliness", "/health/liveness", "/health/readiness"):
            assert (await rest.get(path, headers={"authorization": ""})).status_code == 200
        assert scene.probes() == (0, 0)
        for path in ("/health/", "/health/v1/files", "/v1/health", "/azure/health"):
            refusal(await rest.get(path), 404)

    async def test_without_deployments_is_empty(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as door:
            answer: httpx.Response = await door.rest.get("/health")
            assert answer.json() == {
                "healthy_endpoints": [],
                "unhealthy_endpoints": [],
                "healthy_count": 0,
                "unhealthy_count": 0,
            }


class TestDeployments:
    async def test_are_listed_as_their_calls_found_them(self, scene: Scene, clock: Clock) -> None:
        for one, fake in zip(await scene.deployments(), (scene.azure, scene.openai), strict=True):
            assert one.api_base == fake.api_base
            assert one.state == DeploymentState.DEPLOYMENT_STATE_UNKNOWN
            assert {"latency_ms", "last_error", "last_error_at", "checked_at"}.isdisjoint(given(one))
        scene.openai.fault(Answer(503), 1, LIST)
        await scene.health()
        azure, openai = await scene.deployments()
        assert (azure.name, azure.provider, azure.state) == ("azure", "azure", DeploymentState.DEPLOYMENT_STATE_HEALTHY)
        assert azure.HasField("latency_ms")
        assert azure.checked_at == int(clock.now)
        assert openai.state == DeploymentState.DEPLOYMENT_STATE_UNHEALTHY
        assert (openai.last_error, openai.last_error_at) == (
            "The provider answered with HTTP status 503.",
            int(clock.now),
        )
        assert list(azure.members) == []

    async def test_take_a_key(self, scene: Scene) -> None:
        async with scene.admin() as stub, refused(grpc.StatusCode.UNAUTHENTICATED):
            await stub.ListDeployments(ListDeploymentsRequest())

    async def test_are_known_by_any_call(self, scene: Scene) -> None:
        await scene.door.rest.post("/azure/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}\n")})
        azure, _ = await scene.deployments()
        assert azure.state == DeploymentState.DEPLOYMENT_STATE_HEALTHY
        assert not azure.HasField("latency_ms")  # which an upload says nothing of


async def members() -> list[MemberState]:
    return MEMBERS


@asynccontextmanager
async def grouped(folder: Path, clock: Clock) -> AsyncIterator[tuple[AdminServicer, Fake]]:
    """The service's answers where there are groups, and OpenAI."""
    async with fake_azure() as azure, fake_openai() as openai:
        deployments = (deployment_of("azure", azure), deployment_of("openai", openai))
        async with remotes(folder, *deployments, clock=clock) as providers:
            deployed = DeploymentStatus(providers, members)
            yield AdminServicer(Router(providers, "azure"), Mutations(), deployed, NO_KEYS), openai


class TestGroups:
    @pytest.mark.parametrize(
        ("model", "names"),
        [
            ("", [("azure/mini", "yard"), ("azure/large", "other"), ("openai/gpt-mini", "yard")]),
            ("yard", [("azure/mini", "yard"), ("openai/gpt-mini", "yard")]),
            ("azure/large", [("azure/large", "other")]),
            ("gpt-mini", [("openai/gpt-mini", "yard")]),
        ],
    )
    async def test_have_an_endpoint_for_each_member(
        self, tmp_path: Path, clock: Clock, model: str, names: list[tuple[str, str]]
    ) -> None:
        current_caller.set(Caller("default", master=True))
        async with grouped(tmp_path, clock) as (servicer, _):
            answer = await servicer.CheckHealth(CheckHealthRequest(model=model), CONTEXT)
            assert [(one.model, one.model_name) for one in answer.healthy_endpoints] == names

    async def test_have_no_endpoint_where_model_and_provider_do_not_meet(self, tmp_path: Path, clock: Clock) -> None:
        current_caller.set(Caller("default", master=True))
        async with grouped(tmp_path, clock) as (servicer, _):
            with pytest.raises(NotFound):
                await servicer.CheckHealth(CheckHealthRequest(model="large", provider="openai"), CONTEXT)

    async def test_show_a_team_which_can_be_reached_and_no_more(self, tmp_path: Path, clock: Clock) -> None:
        current_caller.set(Caller("team", master=False))
        async with grouped(tmp_path, clock) as (servicer, openai):
            openai.fault(Answer(503))
            answer = await servicer.CheckHealth(CheckHealthRequest(model="yard"), CONTEXT)
            (good,), (bad,) = answer.healthy_endpoints, answer.unhealthy_endpoints
            assert (good.model, bad.model) == ("azure/mini", "openai/gpt-mini")
            assert {"api_base", "error"}.isdisjoint(given(good) | given(bad))
            with pytest.raises(PermissionDenied):
                await servicer.ListDeployments(ListDeploymentsRequest(), CONTEXT)

    async def test_are_listed_with_their_deployments(self, tmp_path: Path, clock: Clock) -> None:
        current_caller.set(Caller("default", master=True))
        async with grouped(tmp_path, clock) as (servicer, _):
            azure, openai = (await servicer.ListDeployments(ListDeploymentsRequest(), CONTEXT)).deployments
        assert [one.name for one in azure.members] == ["east/mini", "east/large"]
        assert azure.members[0] == Member(
            group="yard",
            name="east/mini",
            model="mini",
            order=1,
            weight=2.5,
            enqueued_tokens_limit=900,
            enqueued_tokens=300,
            shards=2,
            paused_until=1_700_000_000,
            last_refusal="token_limit_exceeded",
        )
        (west,) = openai.members
        assert {"enqueued_tokens_limit", "paused_until", "last_refusal"}.isdisjoint(given(west))
