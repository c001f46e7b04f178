"""A registry and its directory say the same generation, and in between the registry is ahead, whatever interrupts."""

from pathlib import Path
from time import time

import pytest
from tests.registries import opened

from batchyard.common.clock import GuardedClock
from batchyard.service.datadir import pairing
from batchyard.service.datadir.aside import Aside
from batchyard.service.datadir.disk import Disk
from batchyard.service.datadir.pairing import Pair
from batchyard.service.datadir.upkeep import Upkeep
from batchyard.service.domain.records import RegistryIdentity
from batchyard.service.errors import FailedPrecondition
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.work import WorkRegistry


async def identity(database: SqliteDatabase) -> RegistryIdentity:
    return await WorkRegistry(database, "w").identity("never used")


async def test_each_turn_is_a_generation_in_both_places(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        pair = Pair(tmp_path, WorkRegistry(database, "w"))
        await pair.check()
        upkeep = Upkeep(pair, Aside(tmp_path / "aside", Disk()), GuardedClock(time, time), time)
        for generation in (1, 2, 3):
            await upkeep.turn()
            said, kept = pairing.read(tmp_path), await identity(database)
            assert said == pairing.Mark(kept.id, kept.generation) == pairing.Mark(kept.id, generation)
            assert 0 <= time() - kept.newest_at < 60


async def test_a_mark_that_can_not_be_written_leaves_the_registry_ahead_and_is_no_reason_to_refuse(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as database:
        work = WorkRegistry(database, "w")
        pair = Pair(tmp_path, work)
        await pair.check()
        await pair.advance(0)
        (tmp_path / "registry.id.partial").mkdir()
        for _ in range(2):
            with pytest.raises(IsADirectoryError):
                await pair.advance(0)
        assert ((await identity(database)).generation, (pairing.read(tmp_path) or pairing.Mark("", 0)).generation) == (
            3,
            1,
        )
        await Pair(tmp_path, work).check()


async def test_a_registry_that_went_back_is_refused_and_one_that_is_accepted_is_the_newest(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        work = WorkRegistry(database, "w")
        pair = Pair(tmp_path, work)
        await pair.check()
        for _ in range(5):
            await pair.advance(100)
        await work.advance(4, 50)
        again = Pair(tmp_path, work)
        with pytest.raises(FailedPrecondition, match="it is of generation 4, they are of 5"):
            await again.check()
        assert await again.check(accept=True) == 50
        await again.advance(60)
        assert (await identity(database)).generation == 6
        await Pair(tmp_path, work).check()
