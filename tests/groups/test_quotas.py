"""A group's batch counts once for its tenant's limits, however many shards it has."""

from pathlib import Path

from tests.rest.conftest import refusal

from batchyard.service.config.settings import Quotas

from .scene import HELD, lines_of, post, scene


async def test_a_batch_in_shards_is_one_batch_of_so_many_lines(tmp_path: Path) -> None:
    limits = Quotas(batches_in_flight=1, lines_per_day=15)
    async with scene(tmp_path, quirks=HELD, members=[{"max_lines": 4}] * 2, tenant_limits=limits) as yard:
        batch_id = await yard.create(lines_of(10))
        shards = await yard.live(3)
        file_id = await yard.upload(lines_of(6))
        assert "(batches_in_flight): Limit 1, Used 1," in refusal(await post(yard, file_id), 429)["message"]
        for fake, shard in shards:
            fake.run(shard)
        await yard.door.ended(batch_id)
        assert "(lines_per_day): Limit 15, Used 10, Requested 6." in refusal(await post(yard, file_id), 429)["message"]
