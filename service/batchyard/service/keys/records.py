"""A key of callers, as a value."""

import msgspec

from batchyard.service.settings import Quotas


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a tenant. `providers` are names of providers or deployments; none of these or of groups: all.

    Times are Unix seconds. One of the configuration has the id `config:NAME` and no `created_at`.
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
