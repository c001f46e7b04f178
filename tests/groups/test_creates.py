"""Every creation succeeds, its content can be read, and what comes is spread as the configuration says."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.groups.creates import creates
from tests.harness import until

from batchyard.v1 import Placement

from .scene import HELD, MODEL, Yard, lines_of, scene

TOKENS = 40  # of a prompt
PROMPT = [{"role": "user", "content": "x" * 128}]


def batches(yard: Yard) -> list[int]:
    """How many batches each fake got."""
    return [len(fake.batches) for fake in yard.fakes]


@pytest.mark.parametrize("fakes", [2, 3, 10])
async def test_none_of_many_creates_fails(tmp_path: Path, fakes: int) -> None:
    report = await creates(tmp_path, fakes, 24)
    assert report.faults == [], str(report)
    assert sum(report.spread) == 24
    assert max(report.spread) - min(report.spread) <= 2, str(report)


async def test_batches_are_spread_by_weight(tmp_path: Path) -> None:
    members = [{"weight": 1.0}, {"weight": 3.0}]
    async with scene(tmp_path, "azure", "azure", quirks=HELD, members=members) as yard:
        for number in range(40):
            await yard.create(lines_of(1, f"{number}-"))
        await yard.live(40)
        assert batches(yard) == [10, 30]


async def test_batches_go_where_most_budget_is_free(tmp_path: Path) -> None:
    """Of 70 lines' budgets 58 are used, so that four are left of each."""
    members = [{"enqueued_tokens": share * TOKENS} for share in (10, 20, 40)]
    async with scene(tmp_path, "azure", "azure", "azure", quirks=HELD, members=members) as yard:
        for number in range(58):
            await yard.create(lines_of(1, f"{number}-", messages=PROMPT))
        await yard.live(58)
        assert [fake.enqueued(MODEL) for fake in yard.fakes] == [6 * TOKENS, 16 * TOKENS, 36 * TOKENS]


async def told(yard: Yard, batch_id: str) -> Sequence[Placement]:
    """The placements of a batch as soon as there is one."""
    return await until(lambda: yard.placements(batch_id), bool)


async def test_what_exceeds_all_budgets_waits_until_there_is_room(tmp_path: Path) -> None:
    members = [{"enqueued_tokens": 3 * TOKENS}] * 2
    async with scene(tmp_path, "azure", "azure", quirks=HELD, members=members) as yard:
        for fake in yard.fakes:
            fake.quota(MODEL, 3 * TOKENS)
        ids = [await yard.create(lines_of(1, f"{number}-", messages=PROMPT)) for number in range(9)]
        await yard.live(6)

        async def unplaced() -> list[str]:
            return [one for one in ids if not any(at.provider_batch_id for at in await yard.placements(one))]

        waiting = await until(unplaced, lambda found: len(found) == 3)  # what is live there is written down here next
        assert {(await yard.get(one))["status"] for one in waiting} == {"validating"}
        for one in waiting:
            assert all("waiting for" in at.reason for at in await told(yard, one))
        for fake, batch_id in await yard.live(6):
            fake.run(batch_id)
        for fake, batch_id in await yard.live(3):
            fake.run(batch_id)
        assert {(await yard.door.ended(one))["status"] for one in ids} == {"completed"}
        assert yard.once()


async def test_a_later_tier_gets_only_what_an_earlier_one_cannot_take(tmp_path: Path) -> None:
    members = [{"order": 2}, {"order": 1, "enqueued_tokens": 2 * TOKENS}]
    async with scene(tmp_path, "azure", "azure", quirks=HELD, members=members) as yard:
        for number in range(3):
            await yard.create(lines_of(1, f"{number}-", messages=PROMPT))
        await yard.live(3)
        assert batches(yard) == [1, 2]


async def test_the_reason_for_a_place_is_on_the_batch(tmp_path: Path) -> None:
    async with scene(tmp_path) as yard:
        batch = await yard.run(lines_of(2))
        (placed,) = await yard.placements(batch["id"])
        assert (placed.first_line, placed.lines) == (1, 2)
        assert placed.deployment in {"azure-0", "azure-1"}
        assert placed.member == f"{placed.deployment}/{MODEL}"
        assert placed.provider_batch_id in yard.fakes[int(placed.deployment[-1])].batches
        assert "weight" in placed.reason


async def test_a_group_may_mix_providers(tmp_path: Path) -> None:
    async with scene(tmp_path, "azure", "openai") as yard:
        sent = [lines_of(2, f"{number}-") for number in range(6)]
        ids = [await yard.create(lines) for lines in sent]
        for batch_id, lines in zip(ids, sent, strict=True):
            await yard.accounted(await yard.door.ended(batch_id), lines)
        assert batches(yard) == [3, 3]


async def test_several_members_may_be_at_one_deployment(tmp_path: Path) -> None:
    """Two models at one account."""
    own = [{}, {"name": "second", "deployment": "azure-0", "model": "gpt-4o-mini-2"}]
    async with scene(tmp_path, "azure", "azure", members=own) as yard:
        ids = [(await yard.run(lines_of(1, f"{number}-")))["id"] for number in range(4)]
        places = [placed for one in ids for placed in await yard.placements(one)]
        assert Counter(placed.member for placed in places) == {f"azure-0/{MODEL}": 2, "second": 2}
        assert batches(yard) == [4, 0]
