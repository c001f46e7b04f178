"""A group's batch is listed, cancelled, expired and deleted as any other; nothing that was done is lost."""

from pathlib import Path
from time import time
from typing import Any

import pytest
from tests.harness import chat_lines, until
from tests.providers.scene import CONTENT
from tests.rest.conftest import BATCH_KEYS, FILE_KEYS
from tests.upstream.faults import Slow, to
from tests.upstream.store import Upstream

from batchyard.v1 import BatchStatus, WatchBatchRequest

from .scene import HELD, PACE, Yard, lines_of, scene

CANCEL = to("POST", "/cancel")
LINES = lines_of(12)
THREE: dict[str, Any] = {"members": [{"max_lines": 4}] * 3, "quirks": HELD}
KINDS: Any = ("azure", "azure", "azure")


async def cancel(yard: Yard, batch_id: str) -> Any:
    return await yard.door.rest.post(f"/v1/batches/{batch_id}/cancel")


async def cancelling(fake: Upstream) -> bool:
    return any(batch["status"] == "cancelling" for batch in fake.batches.values())


async def halfway(yard: Yard) -> str:
    """A batch in three parts: one is done, one runs, one is validating."""
    batch_id = await yard.create(LINES)
    (first, one), (second, two), _ = await yard.live(3)
    first.run(one)
    second.step(two)
    await yard.seen(batch_id, lambda batch: batch["request_counts"]["completed"] == 4)
    return batch_id


class TestACancel:
    async def test_reaches_every_part_and_keeps_what_is_done(self, tmp_path: Path) -> None:
        async with scene(tmp_path, *KINDS, **THREE) as yard:
            batch_id = await halfway(yard)
            answer = await cancel(yard, batch_id)
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelling")
            for fake in yard.fakes[1:]:
                await fake.arrival(CANCEL)
            for fake, there in await yard.live(2):
                fake.run(there)
            batch = await yard.door.ended(batch_id)
            output, errors = await yard.accounted(batch, LINES)
            assert (batch["status"], batch["cancelled_at"] >= batch["cancelling_at"]) == ("cancelled", True)
            assert (len(output), len(errors)) == (6, 6)  # four of the first part, and half of the second
            assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
            assert batch["request_counts"] == {"total": 12, "completed": 6, "failed": 0}
            assert not any(CANCEL(seen) for seen in yard.fakes[0].requests)
            assert yard.once()
            await yard.cleaned()

    async def test_does_not_wait_for_results_that_come_a_byte_at_a_time(self, tmp_path: Path) -> None:
        lines = lines_of(4)
        async with scene(tmp_path, "openai", quirks=HELD, groups={"harvest_seconds": 0.5}) as yard:
            batch_id = await yard.create(lines)
            ((fake, there),) = await yard.live(1)
            fake.step(there)
            await cancel(yard, batch_id)
            await fake.arrival(CANCEL)
            fake.fault(Slow(1.0), times=1000, where=CONTENT)
            fake.run(there)
            batch = await yard.door.ended(batch_id)
            await yard.accounted(batch, lines)
            assert batch["status"] == "cancelled"

    async def test_reaches_a_deployment_that_comes_back(self, tmp_path: Path) -> None:
        async with scene(tmp_path, *KINDS, **THREE, call_seconds=1.0) as yard:
            batch_id = await halfway(yard)
            yard.fakes[1].down()
            assert (await cancel(yard, batch_id)).status_code == 200
            ((fake, there),) = [one for one in await yard.live(2) if one[0] is not yard.fakes[1]]
            await fake.arrival(CANCEL)
            fake.run(there)
            assert (await yard.get(batch_id))["status"] == "cancelling"
            yard.fakes[1].up()
            await until(lambda: cancelling(yard.fakes[1]), bool)
            for fake, there in await yard.live(1):
                fake.run(there)
            await yard.accounted(await yard.door.ended(batch_id), LINES)

    async def test_ends_a_batch_at_once_that_waits_for_a_place(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", call_seconds=1.0) as yard:
            yard.fakes[0].down()
            batch_id = await yard.create(LINES)
            await yard.fakes[0].arrival()
            assert (await cancel(yard, batch_id)).status_code == 200
            batch = await yard.door.ended(batch_id)
            _, errors = await yard.accounted(batch, LINES)
            assert (batch["status"], len(errors)) == ("cancelled", 12)
            assert not yard.fakes[0].batches

    async def test_of_a_batch_that_has_ended_is_refused(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            batch = await yard.run(lines_of(1))
            assert (await cancel(yard, batch["id"])).status_code == 409

    async def test_again_answers_alike(self, tmp_path: Path) -> None:
        async with scene(tmp_path, *KINDS, **THREE) as yard:
            batch_id = await halfway(yard)
            first, second = await cancel(yard, batch_id), await cancel(yard, batch_id)
            assert first.json()["cancelling_at"] == second.json()["cancelling_at"]


class TestAnExpiry:
    async def test_keeps_what_is_done_and_says_so_of_the_rest(self, tmp_path: Path) -> None:
        late = [0.0]
        async with scene(tmp_path, *KINDS, **THREE, clock=lambda: time() + late[0]) as yard:
            batch_id = await halfway(yard)
            late[0] = 86_401.0
            for fake in yard.fakes[1:]:
                await fake.arrival(CANCEL)
            for fake, there in await yard.live(2):
                fake.run(there)
            batch = await yard.door.ended(batch_id)
            output, errors = await yard.accounted(batch, LINES)
            assert (batch["status"], batch["expired_at"] >= batch["expires_at"]) == ("expired", True)
            assert (len(output), len(errors)) == (6, 6)
            assert {line["error"]["code"] for line in errors} == {"batch_expired"}
            assert batch["request_counts"] == {"total": 12, "completed": 6, "failed": 0}
            await yard.cleaned()

    async def test_of_a_batch_that_never_found_a_place(self, tmp_path: Path) -> None:
        late = [0.0]
        async with scene(tmp_path, "azure", clock=lambda: time() + late[0], call_seconds=1.0) as yard:
            yard.fakes[0].down()
            batch_id = await yard.create(LINES)
            await yard.fakes[0].arrival()
            late[0] = 86_401.0
            batch = await yard.door.ended(batch_id)
            _, errors = await yard.accounted(batch, LINES)
            assert (batch["status"], len(errors)) == ("expired", 12)
            assert {line["error"]["code"] for line in errors} == {"batch_expired"}

    async def test_does_not_wait_for_ever_for_a_dead_region(self, tmp_path: Path) -> None:
        late = [0.0]
        quick: dict[str, Any] = {"call_seconds": 1.0, "connect_seconds": 1.0}
        async with scene(tmp_path, *KINDS, **THREE, clock=lambda: time() + late[0], **quick) as yard:
            batch_id = await halfway(yard)
            late[0] = 86_401.0
            for fake in yard.fakes[1:]:
                await until(lambda fake=fake: cancelling(fake), bool)  # type: ignore[misc]
                fake.down()
            assert (await yard.get(batch_id))["status"] not in {"expired", "failed"}
            late[0] += PACE.harvest_seconds
            batch = await yard.door.ended(batch_id)
            output, errors = await yard.accounted(batch, LINES)
            assert (batch["status"], len(output)) == ("expired", 4)
            assert {line["error"]["code"] for line in errors} == {"batch_expired"}


class TestAnObject:
    async def test_has_the_members_of_any_batch_and_file(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            lines = lines_of(2)
            file = (await yard.door.rest.get(f"/v1/files/{await yard.upload(lines)}")).json()
            assert set(file) == FILE_KEYS
            assert (file["status"], file["purpose"]) == ("processed", "batch")
            batch = await yard.run(lines, metadata={"k": "v"})
            assert set(batch) == BATCH_KEYS
            assert (batch["metadata"], batch["endpoint"], batch["errors"]) == ({"k": "v"}, "/v1/chat/completions", None)
            listed = (await yard.door.rest.get("/v1/batches")).json()
            assert listed["data"] == [batch]
            assert (await yard.door.rest.get("/v1/batches?limit=2")).json() == listed

    async def test_of_the_providers_is_not_shown(self, tmp_path: Path) -> None:
        """Neither the parts at the deployments nor their files are in a caller's lists, or answer to their ids."""
        async with scene(tmp_path, members=[{"max_lines": 4}] * 2) as yard:
            batch = await yard.run(LINES)
            files = (await yard.door.rest.get("/v1/files")).json()["data"]
            assert {file["id"] for file in files} == {batch["input_file_id"], batch["output_file_id"]}
            assert [one["id"] for one in (await yard.door.rest.get("/v1/batches")).json()["data"]] == [batch["id"]]
            for fake in yard.fakes:
                for path in [*(f"files/{one}" for one in fake.files), *(f"batches/{one}" for one in fake.batches)]:
                    assert (await yard.door.rest.get(f"/v1/{path}")).status_code == 404

    async def test_is_deleted_with_its_bytes(self, tmp_path: Path) -> None:
        async with scene(tmp_path, members=[{"max_lines": 4}] * 2) as yard:
            batch = await yard.run(LINES)
            for file_id in (batch["output_file_id"], batch["input_file_id"]):
                answer = await yard.door.rest.delete(f"/v1/files/{file_id}")
                assert answer.json() == {"id": file_id, "object": "file", "deleted": True}
                assert (await yard.door.rest.get(f"/v1/files/{file_id}/content")).status_code == 404

            async def kept() -> list[str]:
                return yard.door.kept()

            await until(kept, lambda names: names == [])
            assert (await yard.get(batch["id"]))["output_file_id"] == batch["output_file_id"]

    async def test_that_a_running_batch_reads_is_not_deleted(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=HELD) as yard:
            file_id = await yard.upload(LINES)
            await yard.door.create(file_id)
            assert (await yard.door.rest.delete(f"/v1/files/{file_id}")).status_code == 409

    async def test_outlives_what_the_provider_keeps(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            batch = await yard.run(LINES)
            for fake in yard.fakes:
                fake.down()
            await yard.accounted(batch, LINES)

    async def test_may_be_watched_to_its_end(self, tmp_path: Path) -> None:
        async with scene(tmp_path, members=[{"max_lines": 4}] * 2) as yard:
            batch_id = await yard.create(LINES)
            request = WatchBatchRequest(batch_id=batch_id)
            seen = [m.batch async for m in yard.door.grpc.stub.WatchBatch(request, metadata=yard.door.grpc.metadata)]
            assert [one.status for one in seen] == sorted(one.status for one in seen)
            assert seen[-1].status == BatchStatus.BATCH_STATUS_COMPLETED
            counts = [one.request_counts.completed for one in seen]
            assert counts == sorted(counts)

    @pytest.mark.parametrize("reads", [0, 1])
    async def test_of_an_old_input_makes_as_many_batches_as_are_asked_for(self, tmp_path: Path, reads: int) -> None:
        async with scene(tmp_path) as yard:
            file_id = await yard.upload(chat_lines(1) if reads else lines_of(1))
            made = [(await yard.door.create(file_id))["id"] for _ in range(3)]
            ended = [(await yard.door.ended(one))["status"] for one in made]
            assert ended == ["failed" if reads else "completed"] * 3
