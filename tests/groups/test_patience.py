"""What a group does when a deployment has not got everything yet, or has something against a part of a batch."""

import json
from dataclasses import replace
from pathlib import Path

from tests.harness import plain_client
from tests.providers.scene import CREATE, UPLOAD
from tests.rest.conftest import opened
from tests.upstream.azure import fake_azure
from tests.upstream.census import Census
from tests.upstream.faults import Answer, Deaf, to
from tests.upstream.quirks import Quirks

from batchyard.service.config.settings import Limits

from .scene import HELD, Yard, lines_of, scene, settings_of

CONTENT = to("GET", "/content")
LINES = lines_of(12)
FOUR = {"max_lines": 4, "enqueued_tokens": 50}


class TestResults:
    async def test_that_are_not_there_for_a_moment_are_not_lost(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as yard:
            yard.fakes[0].fault(Answer(404), times=2, where=CONTENT)
            output, errors = await yard.accounted(await yard.run(LINES), LINES)
            assert (len(output), errors) == (12, [])

    async def test_that_come_by_and_by_are_not_lost(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as yard:
            part = b'{"custom_id": "%s", "response": {"status_code": 200, "body": {"model": "gpt-4o-mini"}}}\n'
            first = part % json.dumps(LINES[0]["custom_id"]).strip('"').encode()
            yard.fakes[0].fault(Answer(200, first), times=2, where=CONTENT)
            output, errors = await yard.accounted(await yard.run(LINES), LINES)
            assert (len(output), errors) == (12, [])

    async def test_that_cannot_be_read_are_errors_at_once(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as yard:
            part = b'{"custom_id": %s, "response": {"status_code": 200, "body": {"model": "gpt-4o-mini", "x": %s}}}\n'
            odd = {0: b"NaN", 1: b'"\xff"', 2: b"-1.5e400"}
            names = [json.dumps(line["custom_id"]).encode() for line in LINES]
            results = b"".join(part % (name, odd.get(n, b"0")) for n, name in enumerate(names))
            yard.fakes[0].fault(Answer(200, results), times=10**6, where=CONTENT)
            batch = await yard.run(LINES)
            output, errors = await yard.accounted(batch, LINES)
            assert len(output) == 10
            assert {line["custom_id"]: line["error"]["code"] for line in errors} == {
                LINES[n]["custom_id"]: "invalid_response" for n in (0, 1)
            }
            assert (batch["request_counts"]["completed"], batch["request_counts"]["failed"]) == (10, 2)

    async def test_that_never_come_are_errors_in_the_end(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", groups={"harvest_seconds": 0.3}) as yard:
            yard.fakes[0].fault(Answer(404), times=10**6, where=CONTENT)
            batch = await yard.run(LINES)
            _, errors = await yard.accounted(batch, LINES)
            assert {line["error"]["code"] for line in errors} == {"result_missing"}
            assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 12)


class TestAPart:
    async def test_that_is_refused_fails_its_own_lines_alone(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", members=[FOUR]) as yard:
            yard.fakes[0].fault(Answer(400), times=1, where=CREATE)
            batch = await yard.run(LINES)
            output, errors = await yard.accounted(batch, LINES)
            assert (batch["status"], len(output), len(errors)) == ("completed", 8, 4)
            assert {line["error"]["code"] for line in errors} == {"no_deployment"}

    async def test_that_all_refuse_keeps_no_member_from_the_others(self, tmp_path: Path) -> None:
        async with scene(tmp_path, members=[FOUR, FOUR]) as yard:
            for fake in yard.fakes:
                fake.fault(Answer(400), times=1, where=CREATE)
            output, errors = await yard.accounted(await yard.run(LINES), LINES)
            assert (len(output) + len(errors), len(errors) in {0, 4}) == (12, True)

    async def test_that_its_provider_cancelled_has_failed(self, tmp_path: Path) -> None:
        """Somebody did it on the provider's own pages; the window has most of a day left."""
        async with scene(tmp_path, "openai", quirks=HELD) as yard:
            batch_id = await yard.create(LINES)
            ((fake, there),) = await yard.live(1)
            fake.step(there)
            await yard.seen(batch_id, lambda batch: batch["status"] == "in_progress")
            async with plain_client() as other:
                headers = {"authorization": f"Bearer {fake.key}"}
                answer = await other.post(f"{fake.api_base}/batches/{there}/cancel", headers=headers)
            assert answer.status_code == 200, answer.text
            fake.run(there)
            batch = await yard.door.ended(batch_id)
            _, errors = await yard.accounted(batch, LINES)
            assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", len(errors))
            assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}

    async def test_may_be_larger_than_an_upload_of_a_caller(self, tmp_path: Path) -> None:
        async with fake_azure(Quirks(), key="sk-0") as fake:
            limits = replace(Limits(), max_file_bytes=1000)
            async with opened(tmp_path, **settings_of([("azure", fake)]), limits=limits) as door:
                yard = Yard(door, [fake], Census(fake), tmp_path)
                await yard.accounted(await yard.run(LINES), LINES)


async def test_uploads_that_hang_hold_no_others_up(tmp_path: Path) -> None:
    """Those that were placed there go elsewhere once the first of them was given up."""
    patience = {"backoff_seconds": 60.0, "max_backoff_seconds": 60.0, "max_transfers": 2}
    async with scene(tmp_path, idle_seconds=1.0, groups=patience) as yard:
        yard.fakes[0].fault(Deaf(), times=10**6, where=UPLOAD)
        ids = [await yard.create(lines_of(2, f"{n}-")) for n in range(12)]
        for batch_id in ids:
            await yard.door.ended(batch_id)
        assert sum(map(UPLOAD, yard.fakes[0].requests)) == 1
