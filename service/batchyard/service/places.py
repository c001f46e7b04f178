"""A bound on uploads at once, of all tenants and providers of this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from batchyard.service.errors import Busy


class UploadPlaces:
    """`most` places, each for one upload."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Holds a place. Raises Busy where there is none."""
        if self._taken >= self._most:
            raise Busy(f"More than {self._most} uploads are under way. Try again soon.")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
