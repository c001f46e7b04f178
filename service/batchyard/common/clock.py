"""A wall clock that may be wrong, and what can be said of the time nevertheless.

A host boots with its clock years ahead, or at 1970, and is set right some minutes later. What is deleted meanwhile
because it seems to have expired is gone, and what is dated then expires at once when the clock is right again.
"""

import logging
from collections.abc import Callable

JUMP_SECONDS = 300.0
"""A clock that is set right moves by less."""
TRUST_SECONDS = 3600.0
"""After so long a time that the clock jumped to, or started with, is believed."""

Clock = Callable[[], float]

_log = logging.getLogger("batchyard.clock")


class GuardedClock:
    """The time of `clock`, in Unix seconds, held against `steady`, which never jumps, and an earlier process's time."""

    def __init__(self, clock: Clock, steady: Clock, newest: float = 0.0) -> None:
        """`newest` is what an earlier process returned as that; 0: there was none."""
        self._clock, self._steady = clock, steady
        self._began = steady()
        self._newest = newest
        self._behind_since: float | None = None
        self._floor: float | None = None
        if clock() < newest - JUMP_SECONDS:
            self._floor = newest
            _log.warning("the clock is behind the time of earlier runs", extra={"seconds": newest - clock()})
        self._offset = (newest or clock()) - self._began
        self._resumes = bool(newest)  # nothing but an earlier process's time was believed yet
        self._jumped_at: float | None = None

    def now(self) -> float:
        """The time to date things with: the clock's.

        Where it started behind the newest time of earlier processes, time goes on from there, until the clock has come
        up or an hour has passed.
        """
        now = self._clock()
        if self._floor is None:
            return now
        passed = self._steady() - self._began
        if now < self._floor + passed and passed < TRUST_SECONDS:
            return self._floor + passed
        self._floor = None
        return now

    def expiry(self) -> float:
        """The time by which things end for good: `now()`, but never one that it jumped ahead to within the hour."""
        steady = self._steady()
        offset = self.now() - steady
        ahead = offset - self._offset
        if ahead <= JUMP_SECONDS:
            self._jumped_at = None
        elif self._jumped_at is None:
            self._jumped_at = steady
            self._tell_jump(ahead)
            return steady + self._offset
        elif steady - self._jumped_at < TRUST_SECONDS:
            return steady + self._offset
        self._offset, self._jumped_at, self._resumes = offset, None, False
        return self.now()

    def removal(self) -> float:
        """The time by which things are removed for good: `expiry()`, but none that the clock has yet to reach."""
        return min(self.expiry(), self._clock())

    def _tell_jump(self, ahead: float) -> None:
        more = {"seconds": ahead}
        if self._resumes:  # nearly always nobody ran it meanwhile, which is nothing to warn of
            _log.info("some time has passed since the last run: nothing expires for the first hour", extra=more)
        else:
            _log.warning("the clock jumped ahead: nothing expires by it for now", extra=more)

    @property
    def is_held(self) -> bool:
        """Whether `expiry` waits behind `now`."""
        self.expiry()
        return self._jumped_at is not None

    def newest(self) -> float:
        """The newest time that is believed, for the next process; it goes back only with a clock that stays behind."""
        now, steady = self.expiry(), self._steady()
        if now >= self._newest:
            self._newest, self._behind_since = now, None
        elif self.now() >= self._newest:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = steady
        elif steady - self._behind_since >= TRUST_SECONDS:
            self._newest, self._behind_since = now, None
        return self._newest
