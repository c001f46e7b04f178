from typing import Any

import pytest

from batchyard.service.config.settings import GroupSettings, Member
from batchyard.service.domain.records import ChunkRecord
from batchyard.service.groups.member import GroupMember
from batchyard.service.groups.placement import Choice, Misfit, choose, unplaced
from batchyard.service.jsonl.scanner import Chunk
from batchyard.service.registry.placements import Open

LINES, BYTES, TOKENS = 10, 1000, 100


class Deployed:
    """As much of a provider as a seat looks at."""

    def __init__(self, available: bool = True) -> None:
        self.available = available


def a_member(name: str, *, available: bool = True, **member: Any) -> GroupMember:
    known = Member(name=name, deployment=name, model="model", **member)
    provider: Any = Deployed(available)
    return GroupMember("model", known, provider, GroupSettings(), lambda: 0.0)


def run(chunks: int) -> list[Chunk]:
    """A run of chunks of `LINES`, `BYTES` and `TOKENS`."""
    return [Chunk(n * LINES, LINES, n * LINES + 1, n * BYTES, BYTES, TOKENS) for n in range(chunks)]


def standing(**held: Open) -> dict[tuple[str, str], Open]:
    return {(deployment, "model"): found for deployment, found in held.items()}


def chosen(chunks: int, *members: GroupMember, held: dict[str, Open] | None = None, **excluded: str) -> Choice:
    choice = choose(run(chunks), members, standing(**held or {}), excluded)
    assert isinstance(choice, Choice), choice
    return choice


class TestAMemberIsChosen:
    def test_by_the_lowest_order_that_can_be_asked(self) -> None:
        first, second, third = (
            a_member("a", order=1, available=False),
            a_member("b", order=2),
            a_member("c", order=3),
        )
        assert chosen(1, first, second, third).group_member is second

    def test_of_a_higher_order_where_no_lower_one_has_room(self) -> None:
        full, other = a_member("a", order=1, enqueued_tokens=TOKENS), a_member("b", order=2)
        assert chosen(1, full, other, held={"a": Open(1, TOKENS)}).group_member is other

    def test_by_the_most_free_budget(self) -> None:
        small, large = a_member("a", enqueued_tokens=1000), a_member("b", enqueued_tokens=1500)
        assert chosen(1, small, large).group_member is large
        assert chosen(1, small, large, held={"b": Open(1, 600)}).group_member is small

    def test_without_a_limit_before_any_with_one(self) -> None:
        limited, free = a_member("a", enqueued_tokens=10**9), a_member("b")
        assert chosen(1, limited, free).group_member is free

    def test_among_equals_by_its_weights_share(self) -> None:
        members = [a_member("a", weight=3), a_member("b"), a_member("c")]
        names = [chosen(1, *members).group_member.member.name for _ in range(50)]
        assert {name: names.count(name) for name in "abc"} == {"a": 30, "b": 10, "c": 10}

    def test_but_not_while_it_is_left_alone(self) -> None:
        refusing, other = a_member("a"), a_member("b")
        refusing.refused("429")
        assert {chosen(1, refusing, other).group_member.member.name for _ in range(4)} == {"b"}

    def test_but_not_where_it_refused_such_lines(self) -> None:
        assert {
            chosen(1, a_member("a"), a_member("b"), a="no such model").group_member.member.name for _ in range(4)
        } == {"b"}


class TestAShard:
    def test_is_the_whole_run_where_that_fits(self) -> None:
        assert len(chosen(7, a_member("a")).chunks) == 7

    @pytest.mark.parametrize(
        "limits", [{"max_lines": 35}, {"max_bytes": 3200}, {"enqueued_tokens": 399}], ids=["lines", "bytes", "tokens"]
    )
    def test_is_as_much_as_a_member_takes(self, limits: dict[str, Any]) -> None:
        assert [chunk.first_line for chunk in chosen(7, a_member("a", **limits)).chunks] == [1, 11, 21]

    def test_is_no_tiny_part_of_a_budget(self) -> None:
        member = a_member("a", enqueued_tokens=1000)
        waiting = choose(run(20), [member], standing(a=Open(3, 800)), {})
        assert waiting == "waiting for a deployment: a: its budget is used up"
        assert len(chosen(20, member, held={"a": Open(3, 700)}).chunks) == 3
        assert len(chosen(2, member, held={"a": Open(3, 800)}).chunks) == 2

    def test_that_should_not_fit_is_tried_where_nothing_is_enqueued(self) -> None:
        assert len(chosen(3, a_member("a", enqueued_tokens=TOKENS // 2)).chunks) == 1

    def test_that_nobody_takes_is_told_apart_from_one_that_waits(self) -> None:
        with pytest.raises(Misfit, match="beyond the limits of every deployment") as misfit:
            choose(run(3), [a_member("a", max_lines=LINES - 1), a_member("b", max_bytes=BYTES - 1)], {}, {})
        assert len(misfit.value.chunks) == 1


class TestTheReason:
    def test_shows_nothing_of_what_others_have_there(self) -> None:
        choice = chosen(
            1, a_member("a", enqueued_tokens=1000), a_member("b", enqueued_tokens=500), held={"a": Open(1, 250)}
        )
        assert choice.reason == "the most free budget of 2"

    def test_for_waiting_names_each_member_and_why(self) -> None:
        busy, gone, paused, unfit = (
            a_member("a", enqueued_tokens=10),
            a_member("b", available=False),
            a_member("c"),
            a_member("d"),
        )
        paused.refused("too many requests")
        waiting = choose(run(1), [busy, gone, paused, unfit], standing(a=Open(1, 10)), {"d": "no such model"})
        assert waiting == (
            "waiting for a deployment: a: its budget is used up; b: can't be reached; "
            "c: refused lately, asked again later; d: refused these lines: no such model"
        )

    def test_says_that_a_group_is_gone(self) -> None:
        assert choose(run(1), [], {}, {}) == "the group is not configured any more"


def placed(first: int, count: int) -> ChunkRecord:
    return ChunkRecord(
        batch_seq=1,
        n=first,
        first_line=1,
        start=first * BYTES,
        end=(first + count) * BYTES,
        sealed=0,
        output_key=None,
        output_size=0,
        error_key=None,
        error_size=0,
        epoch=0,
    )


def test_unplaced_chunks_are_found_as_runs() -> None:
    def left(*taken: ChunkRecord) -> list[list[int]]:
        return [[chunk.offset // BYTES for chunk in one] for one in unplaced(run(8), taken)]

    assert left() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert left(placed(2, 3)) == [[0, 1], [5, 6, 7]]
    assert left(placed(4, 4), placed(0, 2)) == [[2, 3]]
    assert left(placed(0, 8)) == []
