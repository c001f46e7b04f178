"""Deployments are probed while nobody calls them, and what a probe came to is their condition."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.deployments import deployment_of
from tests.harness import until
from tests.upstream.faults import Answer, Fault, Hang, Reset
from tests.upstream.openai import FakeOpenAI, fake_openai

from batchyard.service.errors import NotFound
from batchyard.service.providers.remote.prober import Prober
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.service.upstream.health import FAILURES, HealthState

from .remotes import Clock, remotes
from .scene import LIST

SECONDS = 60.0


@dataclass
class Scene:
    """A deployment, and a prober's sleeps, each of which ends when the test lets it."""

    fake: FakeOpenAI
    provider: RemoteProvider
    clock: Clock
    sleeps: list[float] = field(default_factory=list)
    ends: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def sleep(self, seconds: float) -> None:
        end = self.clock.now + seconds + 0.001  # as sleeps do
        self.sleeps.append(seconds)
        await self.ends.acquire()
        self.clock.now = max(self.clock.now, end)

    async def slept(self) -> float:
        """How long the sleep is that comes after the one that now ends."""
        count = len(self.sleeps) + 1
        self.ends.release()
        return (await until(self.sleeping, lambda sleeps: len(sleeps) == count))[-1]

    async def sleeping(self) -> list[float]:
        return self.sleeps

    async def begun(self) -> float:
        """How long the first sleep is."""
        return (await until(self.sleeping, bool))[0]

    async def call(self) -> None:
        """A call of somebody, which is answered."""
        with pytest.raises(NotFound):
            await self.provider.find_batch("batch_none")

    def probes(self) -> int:
        return sum(map(LIST, self.fake.requests))


@asynccontextmanager
async def opened(folder: Path, **upstream: Any) -> AsyncIterator[Scene]:
    clock = Clock()
    async with (
        fake_openai() as fake,
        remotes(folder, deployment_of("openai", fake), clock=clock, **upstream) as (provider,),
    ):
        yield Scene(fake, provider, clock)


@asynccontextmanager
async def probed(folder: Path) -> AsyncIterator[Scene]:
    async with opened(folder) as scene, Prober([scene.provider], SECONDS, scene.sleep).running():
        yield scene


def about(seconds: float) -> Any:
    return pytest.approx(seconds, rel=0.2)


class TestAProber:
    async def test_probes_soon_and_then_in_each_interval(self, tmp_path: Path) -> None:
        async with probed(tmp_path) as scene:
            assert await scene.begun() <= SECONDS / 10
            assert (scene.probes(), scene.provider.condition.state) == (0, HealthState.UNKNOWN)
            pauses = [await scene.slept() for _ in range(5)]
            assert pauses == [about(SECONDS)] * 5
            assert len(set(pauses)) > 1  # not all deployments at once
            assert (scene.probes(), scene.provider.condition.state) == (5, HealthState.HEALTHY)

    async def test_leaves_out_what_a_call_has_shown(self, tmp_path: Path) -> None:
        async with probed(tmp_path) as scene:
            await scene.begun()
            pause = await scene.slept()
            scene.clock.now += 10
            await scene.call()
            assert await scene.slept() == pytest.approx(10, abs=0.01)
            assert scene.probes() == 1
            assert await scene.slept() == about(SECONDS)
            assert scene.probes() == 2
            assert pause == about(SECONDS)

    async def test_leaves_the_first_out_too(self, tmp_path: Path) -> None:
        async with probed(tmp_path) as scene:
            await scene.begun()
            await scene.call()
            assert await scene.slept() <= 1.2 * SECONDS
            assert scene.probes() == 0

    async def test_asks_one_that_fails_ever_more_rarely_until_it_answers(self, tmp_path: Path) -> None:
        async with probed(tmp_path) as scene:
            scene.fake.fault(Answer(503), 7, LIST)
            await scene.begun()
            pauses = [await scene.slept() for _ in range(7)]
            assert pauses == [about(SECONDS * times) for times in (2, 4, 8, 8, 8, 8, 8)]
            assert scene.probes() == 7  # though it is left alone from the fifth failure on
            assert not scene.provider.available
            assert await scene.slept() == about(SECONDS)
            assert scene.provider.available

    async def test_goes_on_after_a_defect(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async with opened(tmp_path) as scene:
            pass  # it can't be called any more
        async with Prober([scene.provider], SECONDS, scene.sleep).running():
            await scene.begun()
            assert [await scene.slept() for _ in range(3)] == [about(SECONDS)] * 3
        assert caplog.messages == ["a probe failed, will try again"] * 3

    async def test_ends_in_the_middle_of_a_probe(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as scene:
            scene.fake.fault(Hang())
            async with Prober([scene.provider], 0.001).running():
                seen = await scene.fake.arrival(LIST)
            await seen.ended.wait()
            assert seen.left
            assert scene.provider.condition.state is HealthState.UNKNOWN

    async def test_probes_each_by_itself(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "a") as one, opened(tmp_path / "b") as other:
            one.fake.fault(Hang())
            async with Prober([one.provider, other.provider], 0.001).running():
                await one.fake.arrival(LIST)
                await other.fake.arrival(LIST)


class TestAProbe:
    async def test_is_one_list_of_one_batch(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as scene:
            await scene.provider.probe()
            (seen,) = scene.fake.requests
            assert (seen.method, seen.path, seen.query) == ("GET", "/v1/batches", {"limit": "1"})
            assert scene.provider.condition.latency is not None

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            (Answer(500), "HTTP status 500"),
            (Answer(503), "HTTP status 503"),
            (Answer(401), "credentials"),
            (Answer(403), "credentials"),
            (Answer(404), "no Batches API"),
            (Answer(200, b"<html>"), "not a JSON object"),
            (Hang(), "did not answer in 0.2 seconds"),
        ],
    )
    async def test_that_fails_once_is_enough_and_the_next_may_succeed(
        self, tmp_path: Path, fault: Fault, words: str
    ) -> None:
        async with opened(tmp_path, call_seconds=0.2) as scene:
            scene.fake.fault(fault)
            await scene.provider.probe()
            condition = scene.provider.condition
            assert (condition.state, scene.provider.available) == (HealthState.UNHEALTHY, False)
            assert words in (condition.error or "")
            assert scene.probes() == 1
            await scene.provider.probe()
            assert scene.provider.available

    async def test_whose_connection_breaks_has_failed(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as scene:
            scene.fake.fault(Reset(), 2)  # the HTTP client itself sends a read again
            await scene.provider.probe()
            assert "broke" in (scene.provider.condition.error or "")
            assert not scene.provider.available

    @pytest.mark.parametrize("status", [400, 409, 429])
    async def test_that_is_only_refused_shows_that_it_answers(self, tmp_path: Path, status: int) -> None:
        async with opened(tmp_path) as scene:
            scene.fake.fault(Answer(status))
            await scene.provider.probe()
            assert scene.provider.condition.state is HealthState.HEALTHY
            assert scene.probes() == 1

    async def test_that_finds_nobody_says_so_without_the_url(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as scene:
            gone = deployment_of("openai", scene.fake, api_base="http://127.0.0.1:1/v1")
            async with remotes(tmp_path / "data", gone, clock=scene.clock) as (provider,):
                await provider.probe()
                assert provider.condition.error == "The provider could not be reached."

    async def test_never_shows_what_a_provider_says_of_a_key(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as scene:
            scene.fake.key = "sk-another"
            await scene.provider.probe()
            assert "sk-" not in (scene.provider.condition.error or "")
            assert not scene.provider.available

    async def test_is_shared_by_those_who_want_news_at_the_same_time(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as scene:
            await asyncio.gather(*(scene.provider.probe(10) for _ in range(20)))
            assert scene.probes() == 1
            scene.clock.now += 10
            await scene.provider.probe(10)
            assert scene.probes() == 2

    async def test_of_one_that_is_left_alone_waits_for_its_turn(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as scene:
            scene.fake.fault(Answer(503), FAILURES, LIST)
            for _ in range(FAILURES + 3):
                await scene.provider.probe()
            assert scene.probes() == FAILURES
            scene.clock.now += 60
            assert not scene.provider.available
            await scene.provider.probe()
            assert (scene.probes(), scene.provider.available) == (FAILURES + 1, True)
