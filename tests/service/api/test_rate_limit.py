"""Requests a minute, of keys and tenants, against a model that remembers every call."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.service.api.rate_limit import Throttle
from batchyard.service.config.settings import Quotas, Tenant
from batchyard.service.domain.keys import KeyRecord
from batchyard.service.domain.quotas import Allowances, Bound
from batchyard.service.errors import Busy

ALLOWED = Allowances(Quotas(), ())


class Clock:
    now = 5.0

    def __call__(self) -> float:
        return self.now


def bound(most: int, tenant: str = "a") -> tuple[Bound, ...]:
    return (Bound(Quotas(requests_per_minute=most), tenant),)


def refusal(throttle: Throttle, bounds: tuple[Bound, ...]) -> float:
    """Seconds until it is worth another try; 0 where the call was let in."""
    try:
        throttle.take(bounds)
    except Busy as busy:
        return busy.retry_after
    return 0


@given(st.integers(1, 200), st.lists(st.floats(0, 90), max_size=60))
def test_calls_are_let_in_as_a_bucket_that_fills_up_evenly(most: int, pauses: list[float]) -> None:
    clock = Clock()
    throttle, left, at = Throttle(ALLOWED, clock), float(most), clock.now
    for pause in pauses:
        clock.now += pause
        left, at = min(most, left + (clock.now - at) * most / 60), clock.now
        found = refusal(throttle, bound(most))
        if not found:
            assert left > 1 - 1e-4
            left -= 1
        else:
            late = (1 - left) * 60 / most  # which sums of floats may put to either side of a second
            assert max(1, ceil(late - 1e-3)) <= found <= max(1, ceil(late + 1e-3))
            clock.now += found
            assert not refusal(throttle, bound(most))
            left, at = min(most, left + found * most / 60) - 1, clock.now


@pytest.mark.parametrize("most", [1, 3, 7, 60, 1000])
def test_so_many_are_let_in_at_once_and_no_more(most: int) -> None:
    clock = Clock()
    throttle = Throttle(ALLOWED, clock)
    for _ in range(3):
        assert [bool(refusal(throttle, bound(most))) for _ in range(most + 1)] == [False] * most + [True]
        clock.now += 60


def test_a_call_that_one_limit_refuses_counts_for_none() -> None:
    throttle = Throttle(ALLOWED, Clock())
    narrow, wide = bound(1, "narrow"), bound(2, "wide")
    assert not refusal(throttle, narrow + wide)
    for _ in range(5):
        assert refusal(throttle, wide + narrow)
    assert not refusal(throttle, wide)
    assert refusal(throttle, wide)


def test_who_is_idle_is_forgotten() -> None:
    clock = Clock()
    throttle = Throttle(ALLOWED, clock)
    for number in range(25_000):
        throttle.take(bound(60, str(number)))
        clock.now += 0.01
    assert len(throttle._full_at) <= 10_001


def test_the_limits_of_a_caller_are_its_keys_and_its_tenants() -> None:
    usual, own = Quotas(stored_bytes=1, lines_per_day=2), Quotas(stored_bytes=3)
    allowances = Allowances(usual, [Tenant(name="a", limits=own)])
    key = KeyRecord(id="key_1", tenant="a", name="ci", limits=Quotas(batches_in_flight=4))
    merged = Quotas(stored_bytes=3, lines_per_day=2)
    assert allowances.of("a", key) == (Bound(key.limits, "a", key), Bound(merged, "a"))
    assert allowances.of("b", None) == (Bound(usual, "b"),)
    assert ALLOWED.of("a", KeyRecord(id="key_1", tenant="a", name="ci")) == ()
