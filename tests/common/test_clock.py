"""A clock that may be wrong: what ends by it waits for an hour, and what is dated by it is not dated in the past."""

import pytest

from batchyard.common.clock import JUMP_SECONDS, TRUST_SECONDS, GuardedClock

NOW = 1_800_000_000.0
DAY = 86_400.0


class Scene:
    """A wall clock and one that never jumps, and what guards the first by the second."""

    def __init__(self, newest: float = 0.0) -> None:
        self.wall, self.steady = NOW, 50.0
        self.newest = newest

    def begin(self) -> GuardedClock:
        return GuardedClock(lambda: self.wall, lambda: self.steady, self.newest)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def test_a_clock_that_goes_on_is_the_time() -> None:
    scene = Scene()
    clock = scene.begin()
    for seconds in (1.0, DAY, 40 * DAY):
        scene.passes(seconds)
        assert clock.now() == clock.expiry() == clock.newest() == scene.wall


def test_a_clock_that_is_set_right_by_a_little_is_followed() -> None:
    scene = Scene()
    clock = scene.begin()
    for seconds in (JUMP_SECONDS, -JUMP_SECONDS, JUMP_SECONDS):
        scene.wall += seconds
        assert clock.expiry() == scene.wall


@pytest.mark.parametrize("jump", [JUMP_SECONDS + 1, DAY, 3650 * DAY])
def test_nothing_ends_by_a_time_that_the_clock_jumped_to_within_an_hour(jump: float) -> None:
    scene = Scene()
    clock = scene.begin()
    scene.wall += jump
    assert clock.expiry() == NOW
    scene.passes(TRUST_SECONDS - 1)
    assert clock.expiry() == NOW + TRUST_SECONDS - 1
    assert clock.newest() == clock.expiry()
    assert clock.now() == scene.wall
    assert clock.is_held
    scene.passes(1)
    assert clock.expiry() == clock.newest() == scene.wall
    assert not clock.is_held


def test_a_jump_back_within_the_hour_is_as_if_nothing_had_been() -> None:
    scene = Scene()
    clock = scene.begin()
    scene.wall += DAY
    assert clock.expiry() == NOW
    scene.passes(TRUST_SECONDS / 2)
    scene.wall -= DAY
    assert clock.expiry() == scene.wall
    scene.wall += DAY
    scene.passes(TRUST_SECONDS - 1)  # another hour begins
    assert clock.expiry() < scene.wall - DAY + 1


def test_a_host_that_boots_with_its_clock_ahead_of_earlier_runs_ends_nothing_within_an_hour() -> None:
    scene = Scene(newest=NOW)
    scene.wall = NOW + 90 * DAY
    clock = scene.begin()
    assert (clock.expiry(), clock.now()) == (NOW, scene.wall)
    scene.passes(TRUST_SECONDS - 1)
    assert clock.newest() < NOW + TRUST_SECONDS
    scene.newest = clock.newest()
    again = scene.begin()
    assert again.expiry() < NOW + TRUST_SECONDS, "a restart makes it no truer"
    scene.passes(TRUST_SECONDS)
    assert again.expiry() == scene.wall


def test_a_start_after_a_pause_is_no_warning_and_a_jump_while_it_runs_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    scene = Scene(newest=NOW - DAY)
    clock = scene.begin()
    clock.expiry()
    (record,) = caplog.records
    assert (record.levelname, record.message) == (
        "INFO", "some time has passed since the last run: nothing expires for the first hour"
    )  # fmt: skip
    scene.passes(TRUST_SECONDS)
    assert clock.expiry() == scene.wall
    scene.wall += DAY
    clock.expiry()
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "the clock jumped ahead" in caplog.records[-1].message


def test_a_start_within_minutes_of_the_last_run_waits_for_nothing() -> None:
    scene = Scene(newest=NOW - JUMP_SECONDS)
    assert scene.begin().expiry() == NOW


def test_a_host_that_boots_with_its_clock_behind_goes_on_from_the_newest_time(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(newest=NOW)
    scene.wall = 7.0
    clock = scene.begin()
    scene.passes(10)
    assert clock.now() == clock.expiry() == clock.newest() == NOW + 10
    assert "the clock is behind the time of earlier runs" in caplog.text
    scene.wall = NOW + 2 * DAY  # it is set right
    assert clock.now() == scene.wall
    assert clock.expiry() == NOW + 10
    scene.passes(TRUST_SECONDS)
    assert clock.expiry() == scene.wall


def test_nothing_is_removed_by_an_earlier_runs_time_that_the_clock_has_yet_to_reach() -> None:
    scene = Scene(newest=NOW + 400 * DAY)
    clock = scene.begin()
    assert (clock.expiry(), clock.removal()) == (NOW + 400 * DAY, NOW)
    scene.passes(TRUST_SECONDS)
    assert clock.expiry() == clock.removal() == scene.wall


def test_a_clock_that_stays_behind_is_believed_in_the_end() -> None:
    """Then it was the earlier time that was wrong."""
    scene = Scene(newest=NOW)
    scene.wall = NOW - 400 * DAY
    clock = scene.begin()
    scene.passes(TRUST_SECONDS)
    assert clock.now() == clock.expiry() == scene.wall
    assert clock.newest() >= NOW
    scene.passes(TRUST_SECONDS)
    assert clock.newest() == scene.wall


def test_the_newest_time_is_not_put_back_by_a_clock_that_jumps_back_and_returns() -> None:
    scene = Scene()
    clock = scene.begin()
    assert clock.newest() == NOW
    scene.wall -= DAY
    assert clock.newest() == NOW
    scene.wall += DAY
    scene.passes(5)
    scene.passes(TRUST_SECONDS)
    assert clock.newest() >= NOW
