"""How one deployment does, by the calls that it got."""

from collections.abc import Callable
from enum import StrEnum

from batchyard.service.upstream import errors

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


_REST_SECONDS = 60.0  # after a 429 that doesn't say for how long
_LONGEST_REST_SECONDS = 86_400.0
_NEWEST = 0.25  # the share of the newest call in the latency


class HealthState(StrEnum):
    """`UNKNOWN` until something answered, or a probe failed."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Condition:
    """What every call to a deployment adds to.

    It is unhealthy while it is left alone, where it refused our credentials, and where its last probe failed. `error`
    is what went wrong last, in our words; `error_at` and `checked_at`, the time of the last call, are in Unix seconds.
    `latency` is from sending to the answer's head, in seconds, smoothed.
    """

    def __init__(self, steady: Callable[[], float], clock: Callable[[], float]) -> None:
        """`steady` is a clock that never jumps, `clock` is in Unix seconds."""
        self.latency: float | None = None
        self.error: str | None = None
        self.error_at: int | None = None
        self.checked_at: int | None = None
        self._steady = steady
        self._clock = clock
        self._breaker = Breaker(steady)
        self._judged_at: float | None = None
        self._rests_until = 0.0
        self._failing = False
        self._down = False
        self._locked_out = False

    @property
    def state(self) -> HealthState:
        if self._down or self._locked_out or self._breaker.is_open:
            return HealthState.UNHEALTHY
        return HealthState.UNKNOWN if self._judged_at is None else HealthState.HEALTHY

    @property
    def age(self) -> float:
        """Seconds since it was judged last, by an answer or by a probe; infinite for never."""
        return float("inf") if self._judged_at is None else self._steady() - self._judged_at

    def wait(self) -> float:
        """Seconds until the next call may be made; 0: now, and then it must be."""
        return self._breaker.wait()

    def rest(self) -> float:
        """Seconds for which it still asks to be left alone, after a 429."""
        return max(0.0, self._rests_until - self._steady())

    def limited(self, seconds: float | None) -> None:
        """It answered 429, and asks to be left alone for so long; None: it doesn't say."""
        asked = _REST_SECONDS if seconds is None else min(seconds, _LONGEST_REST_SECONDS)
        self._rests_until = max(self._rests_until, self._steady() + asked)

    def answered(self, status: int, seconds: float | None) -> None:
        """An answer's head came; `seconds` is None where the call's body took its time too."""
        if status >= 500:
            self.failed(f"The provider answered with HTTP status {status}.")
            return
        self._breaker.succeeded()
        self._failing = self._down = self._locked_out = False
        self._judged_at, self.checked_at = self._steady(), int(self._clock())
        if status in {401, 403}:
            self.locked_out()
        if seconds is not None:
            self.latency = seconds if self.latency is None else self.latency + _NEWEST * (seconds - self.latency)

    def failed(self, error: str) -> None:
        """A call brought no answer, or none that is of use."""
        self._breaker.failed()
        self._failing = True
        self._note(error)

    def locked_out(self) -> None:
        """Our credentials don't work."""
        self._locked_out = True
        self._note(errors.OF_OURS)

    def probed(self) -> None:
        """The last call was a probe: how it ended is how the deployment is."""
        self._down = self._failing
        self._judged_at = self._steady()

    def _note(self, error: str) -> None:
        self.error = error
        self.error_at = self.checked_at = int(self._clock())
