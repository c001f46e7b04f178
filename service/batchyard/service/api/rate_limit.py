"""How many calls a key or a tenant makes in a minute, bounded before anything of a call is read."""

from collections.abc import Callable

import grpc
from grpc import aio

from batchyard.service.access.caller import current_caller
from batchyard.service.api.authentication import Continuation, MaybeHandler
from batchyard.service.domain.quotas import Allowances, Bound, Scope

_MINUTE = 60.0
_MOST_HELD = 10_000
_JITTER = 1e-6  # seconds, of sums of floats


class Throttle(aio.ServerInterceptor):
    """Behind the interceptor that knows the caller.

    Who is bounded has a bucket of so many calls as it may make in a minute, which fills up again evenly. All that is
    kept of it is when it will be full; one that is full is as good as none.
    """

    def __init__(self, allowances: Allowances, steady: Callable[[], float]) -> None:
        """`steady` is a clock that never jumps."""
        self._allowances = allowances
        self._steady = steady
        self._full_at: dict[Scope, float] = {}

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> MaybeHandler:
        if caller := current_caller.get(None):
            self.take(self._allowances.of(caller.tenant, caller.key))
        return await continuation(details)

    def take(self, bounds: tuple[Bound, ...]) -> None:
        """Counts a call for all, or for none and raises Busy."""
        now, full_at = self._steady(), {}
        for bound in bounds:
            if most := bound.quotas.requests_per_minute:
                pause = _MINUTE / most
                full = max(now, self._full_at.get(bound.scope, now)) + pause
                if (late := full - now - _MINUTE) > _JITTER:
                    raise bound.exceeded("requests_per_minute", most, 1, late)
                full_at[bound.scope] = full
        self._full_at |= full_at
        if len(self._full_at) > _MOST_HELD:
            self._full_at = {scope: full for scope, full in self._full_at.items() if full > now}
