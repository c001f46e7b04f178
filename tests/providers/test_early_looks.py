"""A resource at Azure is looked at 15, 30 and 45 s after a creation too, by a clock that only the test moves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.deployments import deployment_of
from tests.harness import until
from tests.upstream.azure import FakeAzure
from tests.upstream.faults import Answer
from tests.upstream.quirks import Quirks

from batchyard.service.domain.records import BatchRecord
from batchyard.service.providers.base import NewBatch
from batchyard.service.providers.remote.early_looks import EarlyLooks
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.upstream.health import Condition

from .remotes import Clock, remotes
from .scene import FAKES, INPUT, LIST, Provider

HOUR = 3600


@dataclass
class Resource:
    """A resource whose next round is an hour away, and what it was asked."""

    fake: FakeAzure
    provider: RemoteProvider
    owner: TenantRegistry
    clock: Clock

    async def create(self) -> BatchRecord:
        file = await self.provider.adopt_file("team", self.fake.add_file(INPUT))
        new = NewBatch(file.id, "/v1/chat/completions", "24h", {})
        return await self.provider.create_batch(self.owner, new, file)

    @property
    def lists(self) -> int:
        return sum(map(LIST, self.fake.requests))

    async def looked(self, times: int) -> None:
        """Returns when it was listed that often in all."""

        async def lists() -> int:
            return self.lists

        await until(lists, lambda found: found >= times)

    async def refused(self) -> None:
        """Returns when it is known that the resource wants to be left alone."""

        async def rest() -> float:
            return self.provider.condition.rest()

        await until(rest, lambda seconds: seconds > 0)

    async def pass_by(self, seconds: float) -> None:
        """Moves the clock, and lets the follower see that it was moved."""
        self.clock.now += seconds
        await self.provider.made(self.owner, "no such key")


@asynccontextmanager
async def resource(folder: Path, provider: Provider = "azure", **upstream: Any) -> AsyncIterator[Resource]:
    clock = Clock()
    rounds = {"openai_poll_seconds": HOUR, "azure_poll_seconds": HOUR} | upstream
    async with (
        FAKES[provider](Quirks(auto=False, pending_reads=0)) as fake,
        remotes(folder, deployment_of(provider, fake), clock=clock, **rounds) as (found,),
    ):
        with closing(SqliteDatabase(f"sqlite:///{folder / 'registry.sqlite3'}")) as database:
            yield Resource(fake, found, TenantRegistry(database, "team"), clock)


class TestLooks:
    async def test_come_three_times_after_a_creation(self, tmp_path: Path) -> None:
        async with resource(tmp_path) as found:
            await found.create()
            await found.looked(1)  # the round that a creation begins
            for look in range(1, 4):
                await found.pass_by(14)
                assert found.lists == look
                await found.pass_by(1)
                await found.looked(look + 1)
            await found.pass_by(HOUR / 2)
            assert found.lists == 4

    async def test_show_an_end_and_begin_anew_with_each_creation(self, tmp_path: Path) -> None:
        async with resource(tmp_path) as found:
            await found.create()
            await found.looked(1)
            await found.pass_by(HOUR / 2)
            await found.looked(2)
            batch = await found.create()
            found.fake.run(batch.native_id or "")
            await found.pass_by(15)
            await found.looked(3)
            await until(lambda: found.owner.get_batch(batch.id), lambda seen: seen.status == "completed")

    async def test_are_one_list_and_no_call_for_a_single_batch(self, tmp_path: Path) -> None:
        async with resource(tmp_path) as found:
            await found.create()
            await found.looked(1)
            found.fake.fault(Answer(200, {"object": "list", "data": [], "has_more": True}), where=LIST)
            before = len(found.fake.requests)
            await found.pass_by(15)
            await found.looked(2)
            await found.pass_by(1)
            assert len(found.fake.requests) == before + 1

    async def test_do_not_come_after_a_429_until_its_time_is_over(self, tmp_path: Path) -> None:
        async with resource(tmp_path) as found:
            await found.create()
            await found.looked(1)
            found.fake.fault(Answer(429, headers={"retry-after-ms": "20000"}), where=LIST)
            await found.pass_by(15)
            await found.looked(2)  # asked once, and not again at once
            await found.refused()
            await found.pass_by(15)
            assert found.lists == 2
            await found.pass_by(15)
            await found.looked(3)

    async def test_that_fail_leave_the_next_ones_as_they_are(self, tmp_path: Path) -> None:
        async with resource(tmp_path) as found:
            await found.create()
            await found.looked(1)
            for look, answer in enumerate((Answer(500), Answer(200, b"nonsense"), Answer(400)), 2):
                found.fake.fault(answer, where=LIST)
                await found.pass_by(15)
                await found.looked(look)
            assert found.lists == 4

    @pytest.mark.parametrize(
        ("provider", "settings"),
        [("openai", {}), ("azure", {"azure_early_looks": False})],
    )
    async def test_are_azures_alone_and_can_be_turned_off(
        self, tmp_path: Path, provider: Provider, settings: dict[str, Any]
    ) -> None:
        async with resource(tmp_path, provider, **settings) as found:
            await found.create()
            await found.looked(1)
            for _ in range(4):
                await found.pass_by(15)
            assert found.lists == 1


class TestWhenTheyAreDue:
    def looks(self) -> tuple[EarlyLooks, Condition, Clock]:
        clock = Clock()
        condition = Condition(clock, clock)
        return EarlyLooks((15.0, 30.0, 45.0), condition, clock), condition, clock

    def times(self, looks: EarlyLooks, clock: Clock) -> list[float]:
        """The seconds at which a look is due from now on."""
        began, found = clock.now, list[float]()
        while (wait := looks.wait()) is not None:
            clock.now += wait
            found.append(clock.now - began)
            looks.taken()
        return found

    def test_many_creations_share_them(self) -> None:
        looks, _, clock = self.looks()
        for seq in range(100):
            looks.created(seq)
            clock.now += 0.001
        clock.now -= 0.1
        assert self.times(looks, clock) == pytest.approx([15, 30, 45])

    def test_they_are_never_closer_than_the_first_is(self) -> None:
        looks, _, clock = self.looks()
        for seq in range(3):
            looks.created(seq)
            clock.now += 5
        assert self.times(looks, clock) == [0, 15, 30, 45]

    def test_a_batch_that_is_known_is_no_creation(self) -> None:
        looks, _, clock = self.looks()
        looks.created(7)
        assert len(self.times(looks, clock)) == 3
        looks.created(7)
        assert looks.wait() is None

    def test_a_round_is_a_look(self) -> None:
        looks, _, clock = self.looks()
        looks.created(1)
        clock.now += 31
        looks.passed()
        assert self.times(looks, clock) == [14]

    @pytest.mark.parametrize(("asked", "due"), [(20.0, [30, 45]), (40.0, [45]), (None, []), (float("inf"), [])])
    def test_what_falls_into_the_time_of_a_429_is_not_made_up_for(self, asked: float | None, due: list[float]) -> None:
        looks, condition, clock = self.looks()
        looks.created(1)
        condition.limited(asked)
        assert self.times(looks, clock) == due
