"""A key of callers, as a value."""

from typing import NamedTuple

import msgspec

from batchyard.service.config.settings import Key, Quotas

CONFIGURED = "config:"
"""How the ids of keys of the configuration begin."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a tenant. `providers` are names of providers or deployments; none of these or of groups: all.

    Times are Unix seconds. One of the configuration has no `created_at`.
    """

    id: str
    tenant: str
    name: str
    providers: tuple[str, ...] = ()
    model_groups: tuple[str, ...] = ()
    limits: Quotas = Quotas()
    created_at: int | None = None
    rotated_at: int | None = None
    expires_at: int | None = None
    revoked_at: int | None = None

    @classmethod
    def configured(cls, key: Key) -> "KeyRecord":
        return cls(
            id=CONFIGURED + key.name,
            tenant=key.tenant,
            name=key.name,
            providers=key.providers,
            model_groups=key.model_groups,
            limits=key.limits,
            expires_at=key.expires_at,
        )

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def ended(self, now: float) -> bool:
        """Whether it doesn't work any more."""
        return self.revoked_at is not None or self.expired(now)

    def batches_over(self, group: str) -> bool:
        """Whether its batches may use a model group."""
        return not self.model_groups or group in self.model_groups

    def serves(self, provider: str, place: str) -> bool:
        """Whether it may use a place of a provider."""
        return not self.providers or provider in self.providers or place in self.providers


DEFAULT_TENANT = "default"


class Caller(NamedTuple):
    """Who calls: the tenant, whether it may do what the master key may, and whether it speaks as Azure's clients do.

    `key` is the one that it has, none for the master's and where none is needed: then `who` says by what it was let in.
    """

    tenant: str
    master: bool
    azure: bool = False
    key: KeyRecord | None = None
    who: str = ""
