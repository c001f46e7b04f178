"""What goes wrong at a deployment moves its shards or lets them wait; a caller sees a batch that takes longer."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.harness import until
from tests.providers.scene import CREATE, GET_FILE, UPLOAD
from tests.rest.conftest import opened
from tests.upstream.early import answer_of, early_provider, keeps_open
from tests.upstream.faults import Answer, Fault, Reset
from tests.upstream.quirks import Quirks
from tests.upstream.store import Upstream

from .scene import HELD, MODEL, Kind, Yard, lines_of, scene, settings_of

LOST = Reset(acts=True)
BUSY = Answer(429, headers={"retry-after": "1", "retry-after-ms": "1000"})
QUICK_CALLS: Mapping[str, Any] = {"doubt_seconds": 0.5, "call_seconds": 1.0, "connect_seconds": 1.0}
BATCHES = 6


async def all_complete(yard: Yard, count: int = BATCHES) -> None:
    """Runs some batches: each must end well, with each line run once, and leave nothing at the deployments."""
    sent = [lines_of(2, f"{number}-") for number in range(count)]
    ids = [await yard.create(lines) for lines in sent]
    for batch_id, lines in zip(ids, sent, strict=True):
        batch = await yard.door.ended(batch_id)
        assert batch["status"] == "completed", batch
        output, errors = await yard.accounted(batch, lines)
        assert (len(output), errors) == (2, [])
    assert yard.once()
    await yard.cleaned()


async def running(yard: Yard, lines: list[dict[str, Any]]) -> tuple[str, Upstream, Upstream]:
    """A batch that runs at a deployment: its id, the fake that has it, and the other one."""
    batch_id = await yard.create(lines)
    ((fake, there),) = await yard.live(1)
    fake.step(there)
    await yard.seen(batch_id, lambda batch: batch["status"] == "in_progress")
    (other,) = [one for one in yard.fakes if one is not fake]
    return batch_id, fake, other


class TestADeadRegion:
    async def test_gets_no_uploads(self, tmp_path: Path) -> None:
        async with scene(tmp_path, **QUICK_CALLS) as yard:
            yard.fakes[0].down()
            await all_complete(yard)
            assert [len(fake.batches) for fake in yard.fakes] == [0, BATCHES]

    async def test_that_answers_nothing_gets_none_either(self, tmp_path: Path) -> None:
        async with scene(tmp_path, **QUICK_CALLS, idle_seconds=1.0) as yard:
            yard.fakes[0].down(hang=True)
            await all_complete(yard)
            assert [len(fake.batches) for fake in yard.fakes] == [0, BATCHES]

    async def test_works_again_when_it_is_back(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", **QUICK_CALLS) as yard:
            yard.fakes[0].down()
            lines = lines_of(2)
            batch_id = await yard.create(lines)
            await yard.fakes[0].arrival()
            assert (await yard.get(batch_id))["status"] == "validating"
            yard.fakes[0].up()
            await yard.accounted(await yard.door.ended(batch_id), lines)

    async def test_that_took_a_batch_is_waited_for(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=HELD, **QUICK_CALLS) as yard:
            lines = lines_of(4)
            batch_id, fake, other = await running(yard, lines)
            before = len(fake.requests)
            fake.down()

            async def looks() -> int:
                return len(fake.requests) - before

            await until(looks, lambda count: count > 3)
            assert (await yard.get(batch_id))["status"] == "in_progress"
            assert not other.batches
            (there,) = fake.batches
            fake.run(there)
            fake.up()
            await yard.accounted(await yard.door.ended(batch_id), lines)
            assert (len(fake.batches), len(other.batches), yard.once()) == (1, 0, True)

    async def test_that_dies_in_a_create_does_not_get_it_twice(self, tmp_path: Path) -> None:
        """It acts, its answer is lost, and it can't be asked for a while."""
        async with scene(tmp_path, quirks=HELD, **QUICK_CALLS) as yard:
            for fake in yard.fakes:
                fake.fault(LOST, where=CREATE)
            lines = lines_of(2)
            batch_id = await yard.create(lines)
            ((fake, there),) = await yard.live(1)
            fake.down()
            fake.run(there)
            fake.up()
            await yard.accounted(await yard.door.ended(batch_id), lines)
            assert (sum(len(one.batches) for one in yard.fakes), yard.once()) == (1, True)


class TestARefusal:
    @pytest.mark.parametrize(
        ("fault", "where"),
        [
            pytest.param(BUSY, UPLOAD, id="429 to an upload"),
            pytest.param(BUSY, CREATE, id="429 to a create"),
            pytest.param(BUSY, GET_FILE, id="429 to a look at a file"),
            pytest.param(Answer(500), UPLOAD, id="500 to an upload"),
            pytest.param(Answer(503), CREATE, id="503 to a create"),
            pytest.param(Answer(500, acts=True), CREATE, id="500 to a create that acts"),
            pytest.param(Answer(504, acts=True), CREATE, id="504 to a create that acts"),
            pytest.param(Answer(502), GET_FILE, id="502 to a look at a file"),
            pytest.param(LOST, CREATE, id="a create without an answer"),
            pytest.param(Reset(), CREATE, id="a create that never came"),
            pytest.param(LOST, UPLOAD, id="an upload without an answer"),
            pytest.param(Reset(after=100), UPLOAD, id="half an upload"),
        ],
    )
    async def test_that_passes_loses_and_doubles_nothing(self, tmp_path: Path, fault: Fault, where: Any) -> None:
        async with scene(tmp_path, **QUICK_CALLS) as yard:
            for fake in yard.fakes:
                fake.fault(fault, times=2, where=where)
            await all_complete(yard)
            assert not any(fake.faults for fake in yard.fakes)

    async def test_with_a_time_to_wait_is_heeded(self, tmp_path: Path) -> None:
        """A deployment that says an hour is not asked again while another takes the work."""
        async with scene(tmp_path) as yard:
            hour = Answer(429, headers={"retry-after": "3600", "retry-after-ms": "3600000"})
            yard.fakes[0].fault(hour, times=1000, where=CREATE)
            await yard.run(lines_of(2))  # alone: of several at once, more than one may ask before it is told
            await all_complete(yard)
            assert sum(map(CREATE, yard.fakes[0].requests)) == 1
            assert [len(fake.batches) for fake in yard.fakes] == [0, BATCHES + 1]

    async def test_of_an_upload_with_a_time_to_wait_is_heeded(self, tmp_path: Path) -> None:
        """It comes while the file is still being sent, and its connection stays open without an end."""
        answer = answer_of("429 Too Many", None, "retry-after: 3600", "connection: close", length=False)
        async with early_provider(answer, keeps_open, seen=100) as (early, deployment), scene(tmp_path / "a") as other:
            kinds: list[tuple[Kind, Upstream]] = [("azure", other.fakes[0]), ("azure", other.fakes[1])]
            settings = settings_of(kinds, [{"order": 1}, {"order": 2}])
            first, second = settings["deployments"]
            settings["deployments"] = (replace(deployment, name=first.name), second)
            async with opened(tmp_path / "b", **settings) as door:
                yard = Yard(door, other.fakes[1:], other.census, tmp_path)
                batch = await yard.run(lines_of(50))
                assert batch["status"] == "completed"
                batch = await yard.run(lines_of(50))
                assert (batch["status"], early.calls) == ("completed", 1)

    async def test_of_our_credentials_sends_all_work_elsewhere(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            yard.fakes[0].key = "rotated"
            await all_complete(yard)
            assert [len(fake.batches) for fake in yard.fakes] == [0, BATCHES]

    async def test_of_a_model_sends_all_work_elsewhere(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            yard.fakes[0].models = {"another"}
            await all_complete(yard)
            done = [sum(batch["status"] == "completed" for batch in fake.batches.values()) for fake in yard.fakes]
            assert done == [0, BATCHES]

    async def test_of_a_model_by_all_fails_the_lines_and_says_why(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            for fake in yard.fakes:
                fake.models = {"another"}
            lines = lines_of(3)
            batch = await yard.run(lines)
            _, errors = await yard.accounted(batch, lines)
            assert (batch["status"], len(errors)) == ("completed", 3)
            assert {line["error"]["code"] for line in errors} == {"model_not_found"}
            assert batch["request_counts"]["failed"] == 3
            await yard.cleaned()


class TestAQuota:
    @pytest.mark.parametrize("fast", [True, False])
    async def test_that_refuses_sends_a_batch_elsewhere(self, tmp_path: Path, fast: bool) -> None:
        async with scene(tmp_path) as yard:
            yard.fakes[0].quota(MODEL, 1, fail_fast=fast)
            await all_complete(yard)
            done = [sum(batch["status"] == "completed" for batch in fake.batches.values()) for fake in yard.fakes]
            assert done == [0, BATCHES]

    @pytest.mark.parametrize("fast", [True, False])
    async def test_that_all_have_used_up_is_waited_for(self, tmp_path: Path, fast: bool) -> None:
        async with scene(tmp_path, quirks=Quirks(pending_reads=0)) as yard:
            for fake in yard.fakes:
                fake.quota(MODEL, 1, fail_fast=fast)
            lines = lines_of(2)
            batch_id = await yard.create(lines)
            for fake in yard.fakes:
                await fake.arrival(CREATE)
            assert (await yard.get(batch_id))["status"] in {"validating", "in_progress"}
            for fake in yard.fakes:
                fake.quota(MODEL, None)
            batch = await yard.door.ended(batch_id)
            await yard.accounted(batch, lines)
            assert (batch["status"], batch["errors"], yard.once()) == ("completed", None, True)

    async def test_that_nobody_told_us_of_is_learned_and_shared(self, tmp_path: Path) -> None:
        """Twenty batches where only three have room at once, and nothing says so in the configuration."""
        async with scene(tmp_path) as yard:
            for fake in yard.fakes:
                fake.quota(MODEL, 60)
            await all_complete(yard, 20)


class TestAFile:
    async def test_that_stays_pending_is_given_up_for_another_deployment(self, tmp_path: Path) -> None:
        async with scene(tmp_path, groups={"pending_seconds": 0.3}) as yard:
            yard.fakes[0].forever_pending()
            await all_complete(yard)
            assert [len(fake.batches) for fake in yard.fakes] == [0, BATCHES]

    async def test_that_is_in_error_is_given_up_too(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            yard.fakes[0].spoil_files()
            await all_complete(yard)
            assert [len(fake.batches) for fake in yard.fakes] == [0, BATCHES]
