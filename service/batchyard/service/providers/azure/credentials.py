"""How an Azure resource is shown who calls: a key, a token, or an identity whose tokens are renewed."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from batchyard.service.config.settings import Deployment
from batchyard.service.errors import Upstream
from batchyard.service.upstream import errors

_SCOPES = {True: "https://ai.azure.com/.default", False: "https://cognitiveservices.azure.com/.default"}  # facts 5.1


class MissingExtra(Exception):
    """An identity needs the extra `azure`, which isn't installed."""


class Credential(Protocol):
    """What shows a resource who calls."""

    async def headers(self) -> Mapping[str, str]: ...


class Fixed:
    """A key or a token that doesn't change."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    async def headers(self) -> Mapping[str, str]:
        return self._headers


class Identity:
    """An identity of Microsoft Entra; azure-identity keeps its token and renews it in time."""

    def __init__(self, source: Any, deployment: Deployment) -> None:
        """`source` is one of azure-identity's credentials."""
        self._source = source
        self._deployment = deployment
        self._scope = deployment.scope or _SCOPES[deployment.api_version == "v1"]

    async def headers(self) -> Mapping[str, str]:
        """Raises Refused, as where Azure refuses a key, if there is no token to be had."""
        try:
            token = await self._source.get_token(self._scope)
        except Exception as error:  # the extra's own errors, which can't be named here
            raise errors.locked_out(Upstream(0, self._deployment.provider, self._deployment.name)) from error
        return {"authorization": f"Bearer {token.token}"}


@asynccontextmanager
async def opened(deployment: Deployment) -> AsyncIterator[Credential]:
    """The credential of an Azure deployment, closed with the context. Raises MissingExtra."""
    if deployment.api_key:
        yield Fixed({"api-key": deployment.api_key})
    elif deployment.ad_token:
        yield Fixed({"authorization": f"Bearer {deployment.ad_token}"})
    else:
        try:
            from azure.identity.aio import ClientSecretCredential, DefaultAzureCredential  # noqa: PLC0415 - an extra
        except ImportError as error:
            name = deployment.name
            raise MissingExtra(
                f"The deployment '{name}' has no key; to use an identity, in a checkout: pip install '.[azure]'"
            ) from error
        source: ClientSecretCredential | DefaultAzureCredential
        if deployment.tenant_id and deployment.client_id and deployment.client_secret:
            source = ClientSecretCredential(deployment.tenant_id, deployment.client_id, deployment.client_secret)
        else:
            of_several = {"managed_identity_client_id": deployment.client_id} if deployment.client_id else {}
            source = DefaultAzureCredential(**of_several)
        async with source:
            yield Identity(source, deployment)
