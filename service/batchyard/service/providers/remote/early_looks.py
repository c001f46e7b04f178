"""When a deployment is looked at between its rounds: some seconds after each creation there."""

from bisect import bisect
from collections.abc import Callable, Sequence

from batchyard.service.upstream.health import Condition

_TOGETHER = 1.0  # seconds between looks that are one, so that many creations cost no more than a few


class EarlyLooks:
    """The looks that creations ask for. All that are due at once are one look, and two are never closer than `apart`.

    None is due while the deployment asks to be left alone, and those of that time are not made up for.
    """

    def __init__(self, after: Sequence[float], condition: Condition, steady: Callable[[], float]) -> None:
        """`after` are seconds after a creation; `steady` is a clock that never jumps."""
        self._after = after
        self._apart = min(after, default=0.0)
        self._condition = condition
        self._steady = steady
        self._due: list[float] = []
        self._last = -self._apart
        self._newest = -1

    def created(self, seq: int) -> None:
        """A batch was created, with this number in the registry; one that is known already was not."""
        if seq > self._newest:
            self._newest = seq
            for seconds in self._after:
                self._add(self._steady() + seconds)

    def _add(self, due: float) -> None:
        at = bisect(self._due, due)
        if all(abs(due - other) >= _TOGETHER for other in self._due[max(0, at - 1) : at + 1]):
            self._due.insert(at, due)

    def wait(self) -> float | None:
        """Seconds until the next look; 0: now; None: none is asked for."""
        left = self._condition.rest()
        if left:
            self._due = [due for due in self._due if due > self._steady() + left]
        if not self._due:
            return None
        return max(0.0, self._due[0] - self._steady(), self._last + self._apart - self._steady())

    def taken(self) -> None:
        """The deployment is looked at now."""
        self._last = self._steady()
        self.passed()

    def passed(self) -> None:
        """A round looks at it anyway."""
        self._due = [due for due in self._due if due > self._steady()]
