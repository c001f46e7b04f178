"""A batch beyond a deployment's limits is split over several, and comes back as one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from .scene import GROUP, HELD, MODEL, Yard, inputs_of, lines_of, scene

LINES = lines_of(12)
LINE_BYTES = 160  # of one of LINES, at most
TOKENS = 14  # of one's prompt, at most


def spread(yard: Yard) -> list[int]:
    """How many batches each fake got."""
    return [len(fake.batches) for fake in yard.fakes]


@pytest.mark.parametrize(
    ("limit", "least"),
    [({"max_lines": 2}, 6), ({"max_lines": 5}, 3), ({"max_bytes": 4 * LINE_BYTES}, 3)],
    ids=["2 lines", "5 lines", "640 bytes"],
)
async def test_a_batch_beyond_a_limit_is_split_and_comes_back_whole(
    tmp_path: Path, limit: Mapping[str, Any], least: int
) -> None:
    async with scene(tmp_path, members=[limit, limit]) as yard:
        batch = await yard.run(LINES)
        output, errors = await yard.accounted(batch, LINES)
        assert (batch["status"], len(output), errors) == ("completed", 12, [])
        assert [line["custom_id"] for line in output] == [line["custom_id"] for line in LINES]
        assert sum(spread(yard)) >= least
        assert min(spread(yard)) > 0
        sizes = [data for fake in yard.fakes for data in inputs_of(fake)]
        assert max(data.count(b"\n") for data in sizes) <= limit.get("max_lines", 12)
        assert max(map(len, sizes)) <= limit.get("max_bytes", len(b"".join(sizes)))
        placed = sorted(await yard.placements(batch["id"]), key=lambda one: one.first_line)
        assert [one.first_line for one in placed] == [
            1 + sum(one.lines for one in placed[:n]) for n in range(len(placed))
        ]
        assert yard.once()
        await yard.cleaned()


async def test_a_batch_beyond_the_quota_is_split_and_never_exceeds_it(tmp_path: Path) -> None:
    members = [{"enqueued_tokens": 4 * TOKENS}] * 2
    async with scene(tmp_path, members=members) as yard:
        for fake in yard.fakes:
            fake.quota(MODEL, 4 * TOKENS)
        batch = await yard.run(LINES)
        await yard.accounted(batch, LINES)
        assert batch["status"] == "completed"
        assert all(there["status"] == "completed" for fake in yard.fakes for there in fake.batches.values())
        assert yard.once()


async def test_the_parts_of_a_batch_run_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path, "azure", "azure", "azure", quirks=HELD, members=[{"max_lines": 4}] * 3) as yard:
        batch_id = await yard.create(LINES)
        found = await yard.live(3)
        assert {id(fake) for fake, _ in found} == {id(fake) for fake in yard.fakes}
        for fake, there in found:
            fake.run(there)
        await yard.accounted(await yard.door.ended(batch_id), LINES)


async def test_states_and_counts_are_those_of_all_parts(tmp_path: Path) -> None:
    async with scene(tmp_path, quirks=HELD, members=[{"max_lines": 6}] * 2) as yard:
        batch_id = await yard.create(LINES)
        (first, one), (second, two) = await yard.live(2)
        assert (await yard.get(batch_id))["status"] == "validating"
        first.step(one)
        begun = await yard.seen(batch_id, lambda batch: batch["status"] == "in_progress")
        assert (begun["in_progress_at"], begun["output_file_id"]) != (None, None)
        assert begun["request_counts"] == {"total": 12, "completed": 0, "failed": 0}
        first.run(one)
        half = await yard.seen(batch_id, lambda batch: batch["request_counts"]["completed"] == 6)
        assert (half["status"], half["output_file_id"]) == ("in_progress", None)
        second.run(two)
        ended = await yard.door.ended(batch_id)
        assert ended["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
        assert ended["created_at"] <= ended["in_progress_at"] <= ended["finalizing_at"] <= ended["completed_at"]
        assert ended["expires_at"] == ended["created_at"] + 86_400
        assert (ended["model"], ended["input_file_id"]) == (GROUP, begun["input_file_id"])


@pytest.mark.parametrize("kind", ["azure", "openai"])
async def test_usage_is_summed(tmp_path: Path, kind: Any) -> None:
    """Each line of the fakes costs as many tokens as its question has words, both ways."""
    async with scene(tmp_path, kind, kind, members=[{"max_lines": 5}] * 2) as yard:
        usage = (await yard.run(LINES))["usage"]
        assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (24, 24, 48)


async def test_failed_lines_of_all_parts_are_in_one_error_file(tmp_path: Path) -> None:
    lines = [{**line, "body": line["body"] | ({"fail": 400} if n % 4 == 0 else {})} for n, line in enumerate(LINES)]
    async with scene(tmp_path, members=[{"max_lines": 3}] * 2) as yard:
        batch = await yard.run(lines)
        output, errors = await yard.accounted(batch, lines)
        assert batch["request_counts"] == {"total": 12, "completed": 9, "failed": 3}
        assert [line["custom_id"] for line in errors] == ["line-0", "line-4", "line-8"]
        assert {line["response"]["status_code"] for line in errors} == {400}
        assert all(line["id"] for line in [*output, *errors])
        assert len({line["id"] for line in [*output, *errors]}) == 12


async def test_any_range_of_the_output_can_be_read(tmp_path: Path) -> None:
    async with scene(tmp_path, members=[{"max_lines": 2}] * 2) as yard:
        batch = await yard.run(LINES)
        whole = await yard.content(batch["output_file_id"])
        file = (await yard.door.rest.get(f"/v1/files/{batch['output_file_id']}")).json()
        assert (file["bytes"], file["purpose"]) == (len(whole), "batch_output")
        third = len(whole) // 3
        ends = [0, 1, third, 2 * third, len(whole) - 1]
        for start in ends:
            assert await yard.content(batch["output_file_id"], f"bytes={start}-") == whole[start:]
            for end in (end for end in ends if end >= start):
                span = f"bytes={start}-{end}"
                assert await yard.content(batch["output_file_id"], span) == whole[start : end + 1]
        assert await yard.content(batch["output_file_id"], "bytes=-500") == whole[-500:]


async def test_a_part_that_fails_for_good_fails_its_lines_alone(tmp_path: Path) -> None:
    """Its provider finds something wrong with a line that we did not."""
    async with scene(tmp_path, quirks=HELD, members=[{"max_lines": 6}] * 2) as yard:
        batch_id = await yard.create(LINES)
        (first, one), (second, two) = await yard.live(2)
        wrong = {"code": "invalid_request", "message": "Too long for the model.", "param": "body", "line": 2}
        first.fail(one, [wrong])
        second.run(two)
        batch = await yard.door.ended(batch_id)
        output, errors = await yard.accounted(batch, LINES)
        assert (batch["status"], len(output), len(errors)) == ("completed", 6, 6)
        assert batch["request_counts"] == {"total": 12, "completed": 6, "failed": 6}
        told = [line["error"]["message"] for line in errors]
        assert told[1] == "Too long for the model."
        assert all("invalid_request" in text or "Too long" in text for text in told)
        assert yard.once()


async def test_what_a_deployment_leaves_out_or_makes_up_is_put_right(tmp_path: Path) -> None:
    """An output that lacks a line, has one twice, has a foreign one and one that is no JSON."""
    async with scene(tmp_path, "azure", quirks=HELD, groups={"harvest_seconds": 0.3}) as yard:
        lines = lines_of(4)
        batch_id = await yard.create(lines)
        ((fake, there),) = await yard.live(1)
        fake.run(there)
        stored = fake.files[fake.batches[there]["output_file_id"]]
        first, second, third, _ = stored.data.splitlines(keepends=True)
        stored.data = b"".join([second, first, b"no json\n", first, third.replace(b"line-2", b"foreign"), third[:-1]])
        stored.size = len(stored.data)
        batch = await yard.door.ended(batch_id)
        output, errors = await yard.accounted(batch, lines)
        assert sorted(line["custom_id"] for line in output) == ["line-0", "line-1", "line-2"]
        assert [line["custom_id"] for line in errors] == ["line-3"]
        assert batch["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
