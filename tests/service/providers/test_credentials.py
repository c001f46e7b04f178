"""What an Azure resource is shown: a key, a token, or an identity's token, which is asked for anew at each call."""

from typing import NamedTuple

import pytest

from batchyard.service.config.settings import Deployment
from batchyard.service.errors import Refused
from batchyard.service.providers.azure.credentials import Identity, opened

IDENTITY = {"tenant_id": "7f3c1a52-0000-4000-8000-000000000000", "client_id": "app", "client_secret": "hunter2"}


class Token(NamedTuple):
    token: str


class Source:
    """A credential of azure-identity's, as much of it as is used: each token is another one."""

    def __init__(self, *, broken: bool = False) -> None:
        self.asked: list[str] = []
        self._broken = broken

    async def get_token(self, scope: str) -> Token:
        if self._broken:
            raise ValueError("AADSTS7000215: Invalid client secret provided.")
        self.asked.append(scope)
        return Token(f"token-{len(self.asked)}")


def deployment(api_version: str = "2024-10-21", **credential: str) -> Deployment:
    return Deployment(
        name="east", provider="azure", api_base="https://r.example", api_version=api_version, **credential
    )


@pytest.mark.parametrize(
    ("credential", "shown"),
    [
        ({"api_key": "k"}, {"api-key": "k"}),
        ({"ad_token": "t"}, {"authorization": "Bearer t"}),
        ({"api_key": "k", "ad_token": "t"} | IDENTITY, {"api-key": "k"}),
        ({"ad_token": "t"} | IDENTITY, {"authorization": "Bearer t"}),
    ],
)
async def test_a_key_counts_before_a_token_before_an_identity(
    credential: dict[str, str], shown: dict[str, str]
) -> None:
    async with opened(deployment(**credential)) as found:
        assert await found.headers() == shown


@pytest.mark.parametrize("credential", [IDENTITY, {}, {"client_id": "app"}])
async def test_without_them_an_identity_is_used_which_asks_nobody_before_it_is_needed(
    credential: dict[str, str],
) -> None:
    async with opened(deployment(**credential)) as found:
        assert isinstance(found, Identity)


@pytest.mark.parametrize(
    ("api_version", "scope"),
    [("2024-10-21", "https://cognitiveservices.azure.com/.default"), ("v1", "https://ai.azure.com/.default")],
)
async def test_an_identity_asks_for_a_token_at_each_call_for_the_scope_of_its_urls(
    api_version: str, scope: str
) -> None:
    source = Source()
    identity = Identity(source, deployment(api_version))
    assert await identity.headers() == {"authorization": "Bearer token-1"}
    assert await identity.headers() == {"authorization": "Bearer token-2"}
    assert source.asked == [scope, scope]


async def test_an_identity_without_a_token_is_a_credential_that_is_refused_and_its_reason_stays_here() -> None:
    with pytest.raises(Refused) as raised:
        await Identity(Source(broken=True), deployment()).headers()
    assert (raised.value.reason, raised.value.upstream.deployment) == ("PROVIDER_AUTH", "east")
    assert "AADSTS" not in raised.value.message
    assert "AADSTS" in str(raised.value.__cause__)


async def test_a_scope_of_the_settings_is_what_tokens_are_for() -> None:
    source = Source()
    await Identity(source, deployment(scope="https://cognitiveservices.azure.us/.default")).headers()
    assert source.asked == ["https://cognitiveservices.azure.us/.default"]
