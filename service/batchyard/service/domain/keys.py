"""A key of callers, as a value."""

from typing import TYPE_CHECKING

import msgspec

from batchyard.service.config.settings import Key, Quotas

if TYPE_CHECKING:
    from batchyard.service.providers.base import Provider

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

    def serves(self, place: "Provider") -> bool:
        """Whether it may use a place."""
        return not self.providers or place.name in self.providers or place.place in self.providers
