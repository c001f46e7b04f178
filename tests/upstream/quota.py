"""Prompt tokens that wait at an account, which bounds them for each model."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple


class Quota(NamedTuple):
    """What may wait; one that fails fast refuses a creation, another one lets the batch fail in its validation."""

    tokens: int
    fail_fast: bool


class Quotas:
    """Bounds, and what waits in batches that have not ended; both by model."""

    def __init__(self) -> None:
        self.bounds: dict[str, Quota] = {}
        self.enqueued: Counter[str] = Counter()

    def exceeded(self, more: Mapping[str, int]) -> tuple[str, Quota] | None:
        """The model that would have too much with so much more, and its bound."""
        for model, tokens in more.items():
            quota = self.bounds.get(model)
            if quota and self.enqueued[model] + tokens > quota.tokens:
                return model, quota
        return None
