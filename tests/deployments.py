"""Settings of a service that has nothing but a deployment, which a fake plays."""

from typing import Any, Literal

from tests.upstream.store import Upstream as Fake

from batchyard.service.config.settings import Deployment, UpstreamSettings

QUICK = UpstreamSettings(openai_poll_seconds=0.05, azure_poll_seconds=0.05)
DOUBT_SECONDS = QUICK.doubt_seconds


def deployment_of(provider: Literal["openai", "azure"], fake: Fake, **more: Any) -> Deployment:
    """The deployment that `fake` plays."""
    version = "2025-04-01-preview" if provider == "azure" else ""
    known: dict[str, Any] = {"name": provider, "api_base": fake.api_base, "api_key": fake.key, "api_version": version}
    return Deployment(provider=provider, **(known | more))


def at_deployment(provider: Literal["openai", "azure"], *fakes: Fake, **more: Any) -> dict[str, Any]:
    """Settings with deployments of one provider, the first of them called like it."""
    names = [provider, *(f"{provider}-{number}" for number in range(2, len(fakes) + 1))]
    deployments = [deployment_of(provider, fake, name=name) for name, fake in zip(names, fakes, strict=True)]
    return {"local": None, "deployments": tuple(deployments), "default_provider": provider, "upstream": QUICK, **more}
