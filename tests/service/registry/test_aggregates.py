"""What a unit of work names: two that must not run at once have an aggregate in common."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from tests.registries import a_batch, a_file, opened

from batchyard.service.domain.records import IdempotencyKey, Status
from batchyard.service.registry import base
from batchyard.service.registry.base import CLAIMS, PLACEMENTS, Aggregate, Work
from batchyard.service.registry.deployment import RemoteRegistry
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.placements import Placements
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry

T = TypeVar("T")


class RecordingDatabase:
    """A database that notes what the last unit of work named."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self.named: Collection[Aggregate] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, work: Work[T], of: Aggregate, *more: Aggregate, urgent: bool = False) -> T:
        self.named = {of, *more}
        return await self._database.write(work, of, *more, urgent=urgent)


async def test_a_cancel_and_a_step_of_the_same_batch_have_it_in_common(tmp_path: Path) -> None:
    async with opened(tmp_path) as plain:
        database: Any = RecordingDatabase(plain)
        tenant, work = TenantRegistry(database, "a"), WorkRegistry(database, "me")
        batch = await tenant.add_batch(a_batch(1))
        assert database.named == {base.tenant("a")}
        (batch,) = await work.claim_batches(1.0, 9.0)
        assert database.named == {CLAIMS}
        batch = await work.plan(batch, [{"n": 0, "first_line": 1, "start": 0, "end": 5}], status=Status.IN_PROGRESS)
        assert database.named == {base.batch(batch.seq), base.tenant("a")}  # what runs of the tenant was counted
        await tenant.cancel_batch(batch.id, "", 2)
        cancelled = database.named
        await work.finish(await work.reread(batch), [], status=Status.CANCELLED)
        assert cancelled & database.named == {base.batch(batch.seq)}


async def test_uploads_deletions_and_repeats_of_a_tenant_have_it_in_common(tmp_path: Path) -> None:
    async with opened(tmp_path) as plain:
        database: Any = RecordingDatabase(plain)
        tenant = TenantRegistry(database, "a")
        await tenant.add_file(a_file(0), [])
        added = database.named
        await tenant.add_batch(a_batch(1, "file-9"), IdempotencyKey("k", "d", 1))
        created = database.named
        await tenant.delete_file("file-0", "", 2)
        assert added == created == database.named == {base.tenant("a")}


async def test_all_groups_read_and_spend_the_same_budgets(tmp_path: Path) -> None:
    async with opened(tmp_path) as plain:
        database: Any = RecordingDatabase(plain)
        named = []
        for number, name in enumerate("ab"):
            batch = await TenantRegistry(database, name).add_batch(a_batch(number))
            await Placements(database, lambda _: None).place(batch, lambda _: "not now")
            named.append(database.named)
        assert named[0] & named[1] == {PLACEMENTS}


async def test_an_id_of_a_deployment_has_one_owner(tmp_path: Path) -> None:
    values = {name: value for name, value in a_file(1, provider="openai", observed_at=1).items() if name != "id"}
    async with opened(tmp_path) as plain:
        database: Any = RecordingDatabase(plain)
        named = []
        for tenant in ("a", "b"):
            await RemoteRegistry(database, "east", lambda _: None).add_file(tenant, "file-native", values)
            named.append(database.named)
        assert named[0] & named[1] == {base.deployment("east")}
