"""What a batch of a group comes to that is begun again: after a kill, after a fault, with another configuration."""

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.groups.scene import HELD, Yard, lines_of, scene, settings_of
from tests.providers.scene import UPLOAD
from tests.rest.conftest import opened
from tests.upstream.azure import fake_azure
from tests.upstream.census import Census
from tests.upstream.faults import Answer, Refuse, to
from tests.upstream.quirks import Quirks

from batchyard.service.config.settings import Limits

CONTENT = to("GET", "/content")
LINES = lines_of(12)


def database(yard: Yard) -> sqlite3.Connection:
    (path,) = [p for p in yard.folder.rglob("*") if p.is_file() and p.read_bytes()[:15] == b"SQLite format 3"]
    return sqlite3.connect(path)


async def in_time(yard: Yard, batch_id: str, seconds: float = 12.0) -> dict[str, Any]:
    try:
        async with asyncio.timeout(seconds):
            return await yard.door.ended(batch_id)
    except TimeoutError:
        raise AssertionError(f"stuck: {await yard.get(batch_id)}") from None


async def test_a_kill_in_a_write_off_of_a_cancelled_batch_loses_no_line(tmp_path: Path) -> None:
    async with fake_azure(HELD, key="sk-0") as fake:
        settings = settings_of([("azure", fake)])
        fake.fault(Answer(429), times=10**6, where=UPLOAD)
        async with opened(tmp_path, **settings) as door:
            yard = Yard(door, [fake], Census(fake), tmp_path)
            batch_id = await yard.create(LINES)
            await fake.arrival(UPLOAD)
        with database(yard) as db:  # as it is between Placements.take and the seal of `_write_off`
            seq, size = db.execute(
                "select b.seq, f.bytes from batches b join files f on f.id = b.input_file_id where b.id = ?",
                (batch_id,),
            ).fetchone()
            db.execute("update batches set status = 'cancelling', cancelling_at = created_at where seq = ?", (seq,))
            db.execute("delete from placements")
            db.execute("delete from chunks")
            db.execute("insert into chunks (batch_seq, n, first_line, start, end) values (?, 0, 1, 0, ?)", (seq, size))
        db.close()
        async with opened(tmp_path, **settings) as door:
            yard.door = door
            batch = await in_time(yard, batch_id)
            _, errors = await yard.accounted(batch, LINES)
            assert (batch["status"], len(errors)) == ("cancelled", 12)


async def test_an_answer_before_an_upload_has_ended_moves_the_shard(tmp_path: Path) -> None:
    """Such an answer is InvalidArgument, which no shard expects: the whole batch is begun again and again."""
    lines = lines_of(3000, text="x" * 1000)
    async with scene(tmp_path) as yard:
        early = Refuse(after=1000, status=200, body={"id": "file-early", "object": "file"})
        yard.fakes[0].fault(early, times=10**6, where=UPLOAD)
        batch = await in_time(yard, await yard.create(lines), 25)
        await yard.accounted(batch, lines)


async def test_a_result_file_that_is_forgotten_does_not_keep_a_batch_for_ever(tmp_path: Path) -> None:
    """As after a stop that was longer than the provider's `expires_at` of the result, or `expires_at` of 0."""
    async with fake_azure(Quirks(), key="sk-0") as fake:
        settings = settings_of([("azure", fake)])
        fake.fault(Answer(500), times=10**6, where=CONTENT)
        async with opened(tmp_path, **settings) as door:
            yard = Yard(door, [fake], Census(fake), tmp_path)
            batch_id = await yard.create(LINES)
            await fake.arrival(CONTENT)
        fake.faults.clear()
        with database(yard) as db:
            db.execute("update files set deleted_at = 1 where tenant = ':groups' and purpose = 'batch_output'")
        db.close()
        async with opened(tmp_path, **settings) as door:
            yard.door = door
            await yard.accounted(await in_time(yard, batch_id), LINES)


async def test_a_batch_that_is_begun_again_is_not_counted_twice(tmp_path: Path) -> None:
    """An exception of any shard before the first line runs: the engine repeats with the row as it was claimed."""
    lines = lines_of(3000, text="x" * 1000)
    async with fake_azure(Quirks(), key="sk-0") as fake:
        fake.fault(Refuse(after=1000, status=200, body={"id": "file-e", "object": "file"}), times=1, where=UPLOAD)
        limits = replace(Limits(), max_enqueued_tokens=60_000)
        async with opened(tmp_path, **settings_of([("azure", fake)]), limits=limits) as door:
            yard = Yard(door, [fake], Census(fake), tmp_path)
            batch = await in_time(yard, await yard.create(lines), 25)
            assert batch["status"] == "completed", batch["errors"]


async def test_a_member_that_moved_to_another_deployment_leaves_its_shards_where_they_are(tmp_path: Path) -> None:
    """`model_info.id` stays, the entry's account is another one; the old account is configured still."""
    async with fake_azure(HELD, key="sk-0") as one, fake_azure(HELD, key="sk-1") as two:
        both = settings_of([("azure", one), ("azure", two)])
        (group,) = both["model_groups"]
        first, second = (replace(group.members[n], name="mine") for n in (0, 1))
        async with opened(tmp_path, **both | {"model_groups": (replace(group, members=(first,)),)}) as door:
            yard = Yard(door, [one, two], Census(one, two), tmp_path)
            batch_id = await yard.create(LINES)
            ((fake, there),) = await yard.live(1)
            fake.step(there)
            await yard.seen(batch_id, lambda batch: batch["status"] == "in_progress")
        async with opened(tmp_path, **both | {"model_groups": (replace(group, members=(second,)),)}) as door:
            yard.door = door
            fake.run(there)
            batch = await in_time(yard, batch_id)
            output, errors = await yard.accounted(batch, LINES)
            assert (len(output), len(errors)) == (12, 0), errors[:1]
