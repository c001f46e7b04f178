"""What is surely left of limits: counted from the rows once in a while, and only ever made less until the next time.

A creation that fits what is left needs no count of its own, so that its cost doesn't grow with what there is to count,
but for who is near a limit. Nothing is refused for lack of what is left here: then the rows are counted.
"""

from collections.abc import Iterable
from typing import NamedTuple

from batchyard.service.domain.quotas import Scope

_MOST_SCOPES = 10_000


class QuotaRequest(NamedTuple):
    """What is wanted of a limit of a name, which allows `most`."""

    name: str
    most: int
    amount: int


class _Left(NamedTuple):
    most: int
    amount: int
    since: int


class QuotaHeadroom:
    """For the registry's writer alone: nothing that counts is written meanwhile."""

    def __init__(self) -> None:
        self._left: dict[Scope, dict[str, _Left]] = {}

    def take(self, scope: Scope, wanted: Iterable[QuotaRequest], now: int) -> bool:
        """Takes what is wanted if all of it is surely there, which it is not where the clock was put back."""
        known, taken = self._left.get(scope, {}), {}
        for name, most, amount in wanted:
            left = known.get(name)
            if left is None or left.most != most or left.amount < amount or left.since > now:
                return False
            taken[name] = left._replace(amount=left.amount - amount)
        known.update(taken)
        return True

    def put(self, scope: Scope, name: str, most: int, used: int, now: int) -> None:
        """Notes what was counted."""
        if scope not in self._left and len(self._left) >= _MOST_SCOPES:
            self._left.clear()
        self._left.setdefault(scope, {})[name] = _Left(most, most - used, now)

    def used(self, tenant: str, key_id: str | None, name: str, amount: int) -> None:
        """Notes what was used beyond what creations took."""
        for scope in {(tenant, None), (tenant, key_id)}:
            if left := self._left.get(scope, {}).get(name):
                self._left[scope][name] = left._replace(amount=left.amount - max(0, amount))

    def clear(self) -> None:
        """What was counted may not have been committed."""
        self._left.clear()
