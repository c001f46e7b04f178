"""A bound on uploads at once, of all tenants and providers of this process."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from batchyard.service.errors import Busy
from batchyard.service.registry.tenant import INTERNAL


class UploadPlaces:
    """`most` places, each for one upload."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: Counter[str] = Counter()

    @contextmanager
    def taken(self, tenant: str) -> Iterator[int]:
        """Holds a place; gives how many others the tenant holds. Raises Busy where there is none.

        What the service itself sends on takes none: its own bound is elsewhere.
        """
        if tenant == INTERNAL:
            yield 0
            return
        if self._running.total() >= self._most:
            raise Busy(f"More than {self._most} uploads are under way. Try again soon.")
        others = self._running[tenant]
        self._running[tenant] += 1
        try:
            yield others
        finally:
            self._running[tenant] -= 1
