"""Which lines are at work, over all accounts that are watched: none may be in two batches at once."""

from collections import Counter
from collections.abc import Iterable
from typing import Any


class Census:
    """Counts, by custom_id, the batches that have not ended; custom_ids must differ over all that is uploaded.

    `most` is the highest that any count has ever been.
    """

    def __init__(self, *accounts: Any) -> None:
        self.live: Counter[str] = Counter()
        self.most = 0
        for account in accounts:
            account.watch(self)

    def began(self, custom_ids: Iterable[str]) -> None:
        for custom_id in custom_ids:
            self.live[custom_id] += 1
            self.most = max(self.most, self.live[custom_id])

    def ended(self, custom_ids: Iterable[str]) -> None:
        for custom_id in custom_ids:
            self.live[custom_id] -= 1
            if not self.live[custom_id]:
                del self.live[custom_id]

    def doubled(self) -> set[str]:
        """The custom_ids that are in more than one such batch now."""
        return {custom_id for custom_id, count in self.live.items() if count > 1}
