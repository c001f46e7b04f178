"""Shards whose deployment is dead, or is not configured any more."""

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.harness import until
from tests.rest.conftest import opened
from tests.upstream.azure import fake_azure
from tests.upstream.census import Census
from tests.upstream.store import Upstream

from .scene import HELD, Yard, lines_of, scene, settings_of

QUICK_CALLS: dict[str, Any] = {"call_seconds": 0.5, "connect_seconds": 0.5}


async def test_a_cancel_reaches_a_dead_region_after_the_batch_has_ended(tmp_path: Path) -> None:
    async with scene(tmp_path, "azure", quirks=HELD, groups={"harvest_seconds": 0.3}, **QUICK_CALLS) as yard:
        lines = lines_of(3)
        batch_id = await yard.create(lines)
        ((fake, there),) = await yard.live(1)
        fake.step(there)
        await yard.seen(batch_id, lambda batch: batch["status"] == "in_progress")
        fake.down()
        await yard.door.rest.post(f"/v1/batches/{batch_id}/cancel")
        batch = await yard.door.ended(batch_id)
        _, errors = await yard.accounted(batch, lines)
        assert (batch["status"], {line["error"]["code"] for line in errors}) == ("cancelled", {"batch_cancelled"})
        fake.up()
        await until(lambda: status(yard, there), lambda status: status == "cancelling")
        fake.run(there)
        await yard.cleaned()


async def status(yard: Yard, there: str) -> str:
    return str(yard.fakes[0].batches[there]["status"])


async def test_a_shard_waits_for_its_deployment_to_be_configured_again(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        fakes: list[Upstream] = [await stack.enter_async_context(fake_azure(HELD, key=f"sk-{n}")) for n in range(2)]
        both = settings_of([("azure", fake) for fake in fakes])
        (group,) = both["model_groups"]
        for_one = replace(group, members=group.members[1:])
        lines = lines_of(4)
        async with opened(tmp_path, **both) as door:
            yard = Yard(door, fakes, Census(*fakes), tmp_path)
            batch_id = await yard.create(lines)
            ((fake, there),) = await yard.live(1)
            assert fake is fakes[0]
        async with opened(
            tmp_path, **both | {"deployments": both["deployments"][1:], "model_groups": (for_one,)}
        ) as door:
            yard.door = door
            fake.run(there)
            assert (await yard.placements(batch_id))[0].deployment == "azure-0"
            assert (await yard.get(batch_id))["status"] == "validating"
        async with opened(tmp_path, **both | {"model_groups": (for_one,)}) as door:
            yard.door = door
            batch = await door.ended(batch_id)
            output, _ = await yard.accounted(batch, lines)
            assert (batch["status"], len(output)) == ("completed", 4)
            assert yard.once()
