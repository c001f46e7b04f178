"""What keys and tenants may use of the service: whose limits hold for a caller, and the refusal beyond one."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from math import ceil
from typing import NamedTuple, TypeAlias

from batchyard.service.config.settings import Quotas, Tenant
from batchyard.service.domain.keys import KeyRecord
from batchyard.service.errors import Busy

DAY_SECONDS = 86_400
Scope: TypeAlias = tuple[str, str | None]
_NONE = Quotas()
_WORDS = {
    "requests_per_minute": "requests per minute",
    "concurrent_uploads": "uploads at once",
    "stored_bytes": "bytes stored",
    "batches_in_flight": "batches in flight",
    "enqueued_tokens": "enqueued tokens",
    "lines_per_day": "lines per day",
    "tokens_per_day": "tokens per day",
}


class Bound(NamedTuple):
    """Limits of a tenant, or of one of its keys, and what counts for them: its rows, or those with the key's id."""

    quotas: Quotas
    tenant: str
    key: KeyRecord | None = None

    @property
    def scope(self) -> Scope:
        return self.tenant, self.key.id if self.key else None

    def exceeded(self, name: str, used: int, wanted: int, retry_after: float) -> Busy:
        """The refusal of what would exceed a limit, in OpenAI's words. `name` is the field of `Quotas`."""
        whose = f"API key '{self.key.name}'" if self.key else f"tenant '{self.tenant}'"
        seconds = max(1, ceil(retry_after))
        most = getattr(self.quotas, name)
        message = (
            f"Rate limit reached for {whose} on {_WORDS[name]} ({name}): "
            f"Limit {most}, Used {used}, Requested {wanted}. Please try again in {seconds}s."
        )
        return Busy(message, code="rate_limit_exceeded", retry_after=seconds)


class Allowances:
    """Whose limits hold for whom."""

    def __init__(self, usual: Quotas, tenants: Iterable[Tenant]) -> None:
        """`usual` are the limits of every tenant, as far as it has none of its own among `tenants`."""
        self._usual = usual
        self._own = {tenant.name: replace(usual, **_set(tenant.limits)) for tenant in tenants}

    def of(self, tenant: str, key: KeyRecord | None) -> tuple[Bound, ...]:
        """The key's, and the tenant's; those that bound nothing are left out."""
        quotas = self._own.get(tenant, self._usual)
        found = [Bound(key.limits, tenant, key)] if key and key.limits != _NONE else []
        return tuple([*found, Bound(quotas, tenant)] if quotas != _NONE else found)


def _set(quotas: Quotas) -> dict[str, int]:
    return {name: value for name, value in asdict(quotas).items() if value is not None}
