"""A circuit breaker: a deployment that fails again and again is left alone for a while."""

from collections.abc import Callable

FAILURES = 5  # in a row
_FIRST_PAUSE, _MOST_PAUSE = 5.0, 60.0  # seconds


class Breaker:
    """Closed until `FAILURES` calls in a row failed; then one call a pause may try, and ends it where it succeeds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES

    def wait(self) -> float:
        """Seconds until the next call may try; 0: now, and then this is the one that does."""
        if not self.is_open:
            return 0.0
        left = self._until - self._clock()
        if left <= 0:
            self._until = self._clock() + self._pause  # the others wait for how this one ends
            return 0.0
        return left

    def succeeded(self) -> None:
        self._failures = 0
        self._pause = _FIRST_PAUSE

    def failed(self) -> None:
        self._failures += 1
        if self._failures == FAILURES:
            self._until = self._clock() + self._pause
        elif self._failures > FAILURES:
            self._pause = min(2 * self._pause, _MOST_PAUSE)
            self._until = self._clock() + self._pause
