"""Trouble of one shard, and of the registry, is not that of the shards beside it."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.harness import until
from tests.providers.scene import CREATE, UPLOAD
from tests.registries import failing
from tests.upstream.faults import Held, Where

from .scene import HELD, Yard, lines_of, scene

LINES = lines_of(8)
HALVES = [{"max_lines": 4}] * 2


def cancel_elsewhere(yard: Yard, batch_id: str) -> None:
    """Commits a cancel as another process would, of which this one hears by its next look at the row."""
    with closing(sqlite3.connect(yard.folder / "data/registry.sqlite3")) as other, other:
        changed = other.execute(
            "UPDATE batches SET status = 'cancelling', cancelling_at = created_at WHERE id = ?", (batch_id,)
        )
        assert changed.rowcount == 1


async def arrived(yard: Yard, where: Where, count: int = 1) -> None:
    async def calls() -> int:
        return sum(where(seen) for fake in yard.fakes for seen in fake.requests)

    await until(calls, lambda seen: seen >= count)


class TestACancelThatIsCommittedElsewhere:
    async def test_comes_before_a_place_that_becomes_free(self, tmp_path: Path) -> None:
        lines = lines_of(2)
        async with scene(tmp_path, "azure", quirks=HELD, members=[{"enqueued_tokens": 20}]) as yard:
            await yard.create(lines)
            ((fake, there),) = await yard.live(1)
            batch_id = await yard.create(lines)
            await until(lambda: yard.door.grpc.get(batch_id), lambda batch: "waiting" in str(batch.placements))
            cancel_elsewhere(yard, batch_id)
            fake.run(there)
            batch = await yard.door.ended(batch_id)
            assert (batch["status"], len(fake.batches)) == ("cancelled", 1)
            await yard.accounted(batch, lines)
            await yard.cleaned()

    async def test_comes_before_a_deployment_is_asked(self, tmp_path: Path) -> None:
        lines, gate = lines_of(2), asyncio.Event()
        async with scene(tmp_path, "azure") as yard:
            yard.fakes[0].fault(Held(gate, acts=True), where=UPLOAD)
            batch_id = await yard.create(lines)
            await arrived(yard, UPLOAD)
            cancel_elsewhere(yard, batch_id)
            gate.set()
            batch = await yard.door.ended(batch_id)
            assert (batch["status"], yard.fakes[0].batches) == ("cancelled", {})
            await yard.accounted(batch, lines)
            await yard.cleaned()


class TestAShard:
    @pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ERROR])
    async def test_that_cant_be_written_of_breaks_off_no_other(self, tmp_path: Path, code: int) -> None:
        """One is being uploaded while what became of the other can't be written."""
        gate = asyncio.Event()
        async with scene(tmp_path, members=HALVES) as yard:
            yard.fakes[1].fault(Held(gate), where=UPLOAD)
            with failing(code, "UPDATE placements SET", times=1) as failed:

                async def failures() -> int:
                    return len(failed)

                batch_id = await yard.create(LINES)
                await arrived(yard, UPLOAD, 2)
                await until(failures, lambda count: count > 0)
                gate.set()
                batch = await yard.door.ended(batch_id)
            assert batch["status"] == "completed"
            await yard.accounted(batch, LINES)
            assert (sum(map(UPLOAD, yard.fakes[1].requests)), yard.once()) == (1, True)
            assert sum(map(CREATE, yard.fakes[1].requests)) == 1

    async def test_goes_on_where_its_progress_cant_be_shown(self, tmp_path: Path) -> None:
        async with scene(tmp_path, members=HALVES) as yard:
            with failing(sqlite3.SQLITE_IOERR, "UPDATE chunks SET completed"):
                batch = await yard.run(LINES)
            assert batch["status"] == "completed"
            await yard.accounted(batch, LINES)
            assert [sum(map(UPLOAD, fake.requests)) for fake in yard.fakes] == [1, 1]
