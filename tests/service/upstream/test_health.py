"""A deployment's condition, by what its calls came to."""

import pytest
from tests.providers.remotes import Clock

from batchyard.service.upstream.health import FAILURES, Condition, HealthState


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def condition(clock: Clock) -> Condition:
    return Condition(clock, clock)


def answered(condition: Condition) -> Condition:
    """A condition that was good a moment ago."""
    condition.answered(200, 0.1)
    return condition


def state(condition: Condition) -> HealthState:
    return condition.state


def test_is_unknown_until_something_answers(condition: Condition) -> None:
    assert (state(condition), condition.age, condition.checked_at) == (HealthState.UNKNOWN, float("inf"), None)
    condition.failed("It broke.")
    assert (state(condition), condition.checked_at) == (HealthState.UNKNOWN, 1000)
    condition.answered(200, 0.1)
    assert (state(condition), condition.age) == (HealthState.HEALTHY, 0.0)


@pytest.mark.parametrize("status", [200, 201, 204, 301, 400, 404, 409, 429, 499])
def test_a_callers_mistake_says_nothing_against_a_deployment(condition: Condition, status: int) -> None:
    condition.answered(status, 0.1)
    condition.probed()
    assert (state(condition), condition.error) == (HealthState.HEALTHY, None)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_make_it_unhealthy_until_they_are_taken(condition: Condition, status: int) -> None:
    answered(condition).answered(status, 0.1)
    assert state(condition) is HealthState.UNHEALTHY
    assert "credentials" in (condition.error or "")
    condition.failed("It broke.")  # which says nothing of the credentials
    assert state(condition) is HealthState.UNHEALTHY
    condition.answered(404, 0.1)
    assert state(condition) is HealthState.HEALTHY


def test_an_identity_without_a_token_is_refused_credentials(condition: Condition) -> None:
    answered(condition).locked_out()
    assert state(condition) is HealthState.UNHEALTHY


def test_one_failure_of_a_call_is_noted_and_no_more(condition: Condition, clock: Clock) -> None:
    answered(condition)
    clock.now += 7
    condition.answered(503, 0.1)
    assert state(condition) is HealthState.HEALTHY
    assert condition.error == "The provider answered with HTTP status 503."
    assert (condition.error_at, condition.checked_at, condition.age) == (1007, 1007, 7.0)


def test_one_failure_of_a_probe_makes_it_unhealthy_until_an_answer(condition: Condition, clock: Clock) -> None:
    answered(condition)
    clock.now += 7
    condition.failed("It broke.")
    condition.probed()
    assert (state(condition), condition.error, condition.age) == (HealthState.UNHEALTHY, "It broke.", 0.0)
    condition.answered(404, 0.1)
    assert state(condition) is HealthState.HEALTHY
    assert (condition.error, condition.error_at) == ("It broke.", 1007)  # the last thing that went wrong, still


def test_many_failures_in_a_row_make_it_unhealthy(condition: Condition) -> None:
    answered(condition)
    for _ in range(FAILURES - 1):
        condition.answered(500, 0.1)
    assert state(condition) is HealthState.HEALTHY
    condition.failed("It broke.")
    assert state(condition) is HealthState.UNHEALTHY


def test_asking_for_the_state_leaves_the_trial_call_to_others(condition: Condition, clock: Clock) -> None:
    for _ in range(FAILURES):
        condition.failed("It broke.")
    assert condition.wait() > 0
    clock.now += condition.wait()
    assert state(condition) is HealthState.UNHEALTHY
    assert condition.wait() == 0  # this is the trial call
    assert condition.wait() > 0


def test_the_latency_follows_the_answers(condition: Condition) -> None:
    condition.answered(200, 1.0)
    assert condition.latency == 1.0
    condition.answered(200, 2.0)
    assert 1.0 < condition.latency < 2.0


def test_uploads_and_failures_say_nothing_of_the_latency(condition: Condition) -> None:
    condition.answered(200, None)
    condition.answered(500, 0.001)
    assert condition.latency is None
