from typing import Any

import pytest

from batchyard.service.config.settings import GroupSettings, Member
from batchyard.service.groups.member import GroupMember

FULL = "The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'gpt-4.1-batch'."


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def group_member(clock: Clock, **member: Any) -> GroupMember:
    provider: Any = type("Deployed", (), {"available": True})()
    known = Member(name="a", deployment="a", model="model", **member)
    return GroupMember("model", known, provider, GroupSettings(), clock)


def test_a_member_that_refuses_is_left_alone_for_longer_and_longer() -> None:
    clock = Clock()
    member = group_member(clock)
    pauses = []
    for _ in range(9):
        member.refused("full")
        assert not member.ready
        pauses.append(member.pause)
        clock.now += member.pause
        assert member.ready
    expected = [5, 10, 20, 40, 80, 160, 320, 320, 320]
    assert pauses == [pytest.approx(seconds, rel=0.26) for seconds in expected]
    member.worked(0)
    member.refused("full")
    assert member.pause == pytest.approx(5, rel=0.26)


def test_a_members_own_word_for_how_long_counts_where_it_is_longer() -> None:
    member = group_member(Clock())
    member.refused("429", hint=37.0)
    assert member.pause == pytest.approx(37)


def test_a_word_for_how_long_that_has_no_end_is_not_believed() -> None:
    member = group_member(Clock())
    member.refused("429", hint=float("inf"))
    assert member.pause == 86_400


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (FULL, 30_000),
        ("Enqueued token limit reached for gpt-4.1 in organization org-1. Limit: 900,000 enqueued tokens.", 900_000),
        ("token limit of 1.5M", 1_500_000),
    ],
)
def test_a_limit_is_learned_from_what_is_said(said: str, limit: int) -> None:
    clock = Clock()
    member = group_member(clock, enqueued_tokens=5_000_000)
    member.full(said, wanted=2_000_000, enqueued=0)
    assert member.limit == limit
    clock.now += 3601
    assert member.limit == 5_000_000


def test_a_limit_that_no_number_holds_is_none() -> None:
    member = group_member(Clock())
    member.full(f"token_limit_exceeded: the limit of {'9' * 400} is exceeded", wanted=1000, enqueued=400)
    assert member.limit == 900


def test_a_limit_that_is_not_said_or_not_it_is_guessed_until_more_works() -> None:
    clock = Clock()
    member = group_member(clock)
    member.full("token_limit_exceeded", wanted=1000, enqueued=400)
    assert member.limit == 900
    member.worked(900)
    assert member.limit == 900
    member.worked(901)
    assert member.limit is None


def test_a_limit_that_others_use_up_is_not_the_one_that_is_said() -> None:
    clock = Clock()
    member = group_member(clock)
    member.full(FULL, wanted=100, enqueued=0)
    assert member.limit == 50
    clock.now += 601
    assert member.limit is None
