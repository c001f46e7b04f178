"""How old an answer about a batch is, and when it costs a call to its deployment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import pytest
from tests.deployments import deployment_of
from tests.rest.conftest import opened, refusal
from tests.upstream.faults import Answer, Held
from tests.upstream.openai import FakeOpenAI, fake_openai
from tests.upstream.plain import create, rest
from tests.upstream.quirks import Quirks

from batchyard.service.config.settings import LocalSettings
from batchyard.service.domain.records import BatchRecord
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.v1 import Batch, BatchStatus, GetBatchRequest, ListBatchesRequest, WatchBatchRequest

from .remotes import remotes
from .scene import FAKES, GET, INPUT, LIST, Provider, Scene, before

HOUR = 3600
LATE = 3 * HOUR  # later than two rounds
AWAY = Answer(503, headers={"retry-after": "60"})


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = int(time())

    def __call__(self) -> float:
        return self.now


@dataclass
class Live:
    """A live batch that the follower has not seen since its creation, and will not look at for an hour."""

    scene: Scene
    clock: Clock
    batch_id: str

    async def get(self, control: str = "") -> tuple[dict[str, Any], int]:
        """The batch, and how old it is."""
        headers = {"cache-control": control} if control else {}
        answer = await self.scene.door.rest.get(f"/v1/batches/{self.batch_id}", headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json(), int(answer.headers["x-batchyard-age"])

    async def told(self, **fields: Any) -> Batch:
        client = self.scene.door.grpc
        request = GetBatchRequest(batch_id=self.batch_id, **fields)
        return (await client.stub.GetBatch(request, metadata=client.metadata)).batch

    async def row(self) -> Batch:
        client = self.scene.door.grpc
        (batch,) = (await client.stub.ListBatches(ListBatchesRequest(), metadata=client.metadata)).data
        return batch

    @property
    def asked(self) -> int:
        return self.scene.calls(GET)


@pytest.fixture(params=["openai", "azure"])
async def live(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Live]:
    provider: Provider = request.param
    clock = Clock()
    rounds: dict[str, Any] = {"openai_poll_seconds": HOUR, "azure_poll_seconds": HOUR}
    async with (
        FAKES[provider](Quirks(auto=False)) as fake,
        before(fake, tmp_path, provider, clock=clock, **rounds) as scene,
    ):
        fake.fault(Answer(400), times=1000, where=LIST)
        batch_id = (await scene.post(await scene.input())).json()["id"]
        yield Live(scene, clock, batch_id)


async def test_a_live_batch_is_as_old_as_it_says(live: Live) -> None:
    assert (await live.get())[1] == 0
    live.clock.now += 2 * HOUR
    batch, age = await live.get("max-age=0, no-store")
    assert (batch["status"], age, live.asked) == ("validating", 2 * HOUR, 0)
    told = await live.told()
    assert (told.age_seconds, told.observed_at) == (2 * HOUR, live.clock.now - 2 * HOUR)
    assert (await live.row()).age_seconds == 2 * HOUR


async def test_one_that_was_not_seen_for_long_is_asked_for_once_by_all(live: Live) -> None:
    gate = asyncio.Event()
    live.scene.fake.run(live.batch_id)
    live.scene.fake.fault(Held(gate), where=GET)
    live.clock.now += LATE
    polls = [asyncio.create_task(live.told()) for _ in range(1000)]
    await live.scene.fake.arrival(GET)
    gate.set()
    batches = await asyncio.gather(*polls)
    assert {(batch.status, batch.age_seconds) for batch in batches} == {(BatchStatus.BATCH_STATUS_COMPLETED, 0)}
    assert live.asked == 1


async def test_one_that_did_not_change_is_fresh_again(live: Live) -> None:
    live.clock.now += LATE
    assert (await live.get())[1] == 0
    live.clock.now += HOUR
    assert (await live.get())[1] == HOUR
    assert live.asked == 1


async def test_one_that_can_not_be_asked_for_stays_as_it_was(live: Live) -> None:
    live.scene.fake.fault(AWAY, times=1000, where=GET)
    live.clock.now += LATE
    for _ in range(3):
        batch, age = await live.get()
        assert (batch["status"], age) == ("validating", LATE)
    assert live.asked == 1
    path, headers = f"/v1/batches/{live.batch_id}", {"cache-control": "no-cache"}
    refusal(await live.scene.door.rest.get(path, headers=headers), 503)
    assert live.asked == 2


async def test_no_cache_asks_each_time(live: Live) -> None:
    answers = await asyncio.gather(*(live.get("no-cache") for _ in range(5)))
    assert {(batch["status"], age) for batch, age in answers} == {("validating", 0)}
    assert live.asked == 5


async def test_no_cache_does_not_wait_for_what_began_before(live: Live) -> None:
    gate = asyncio.Event()
    live.scene.fake.fault(Held(gate, acts=True), where=GET)
    live.clock.now += LATE
    poll = asyncio.create_task(live.get())
    await live.scene.fake.arrival(GET)
    live.scene.fake.run(live.batch_id)
    assert (await live.get("no-cache"))[0]["status"] == "completed"
    gate.set()
    assert (await poll)[0]["status"] == "completed"  # what is over stays over, whatever is heard later


async def test_what_is_no_news_is_not_written(live: Live) -> None:
    seen = (await live.row()).observed_at
    live.clock.now += HOUR
    told = await live.told(fresh=True)
    assert (told.age_seconds, told.observed_at) == (0, live.clock.now)
    assert (await live.row()).observed_at == seen


async def test_news_are_everybodys(live: Live) -> None:
    client = live.scene.door.grpc
    watch = client.stub.WatchBatch(WatchBatchRequest(batch_id=live.batch_id), metadata=client.metadata)
    states = aiter(watch)
    assert (await anext(states)).batch.status == BatchStatus.BATCH_STATUS_VALIDATING
    live.scene.fake.run(live.batch_id)
    batch, _ = await live.get("no-cache")
    assert [message.batch.status async for message in states] == [BatchStatus.BATCH_STATUS_COMPLETED]
    assert (await live.scene.door.rest.get(f"/v1/files/{batch['output_file_id']}")).status_code == 200


async def test_one_that_has_ended_stays_as_it_is(live: Live) -> None:
    live.scene.fake.run(live.batch_id)
    ended, _ = await live.get("no-cache")
    asked = len(live.scene.fake.requests)
    live.scene.fake.down()
    live.clock.now += LATE
    for control in ("", "no-cache"):
        assert await live.get(control) == (ended, 0)
    assert len(live.scene.fake.requests) == asked


async def test_one_that_is_being_cancelled_does_not_go_back(live: Live) -> None:
    live.scene.fake.step(live.batch_id)
    answer = await live.scene.door.rest.post(f"/v1/batches/{live.batch_id}/cancel")
    assert (answer.json()["status"], answer.headers["x-batchyard-age"]) == ("cancelling", "0")
    said = dict(live.scene.fake.batches[live.batch_id], status="in_progress")
    live.scene.fake.fault(Answer(200, said), where=GET)
    live.clock.now += LATE
    batch, age = await live.get()
    assert (batch["status"], age, live.asked) == ("cancelling", 0, 1)


async def test_one_at_a_deployment_that_is_gone_is_what_was_seen(tmp_path: Path) -> None:
    clock = Clock()
    async with fake_openai(Quirks(auto=False)) as fake, before(fake, tmp_path, clock=clock) as scene:
        fake.fault(Answer(400), times=1000, where=LIST)
        batch = (await scene.post(await scene.input())).json()
    clock.now += LATE
    async with opened(tmp_path, clock=clock, local=LocalSettings(echo=True), default_provider="local") as door:
        answer = await door.rest.get(f"/v1/batches/{batch['id']}")
        assert (answer.json(), answer.headers["x-batchyard-age"]) == (batch, str(LATE))
        asked = await door.rest.get(f"/v1/batches/{batch['id']}", headers={"cache-control": "no-cache"})
        assert "not configured any more" in refusal(asked, 400)["message"]


class TestALookThatIsShared:
    """`provider` has a batch that was not seen for long, and whose next look waits at the gate."""

    @asynccontextmanager
    async def _held(self, folder: Path) -> AsyncIterator[tuple[FakeOpenAI, RemoteProvider, BatchRecord, asyncio.Event]]:
        clock, gate = Clock(), asyncio.Event()
        async with (
            fake_openai(Quirks(auto=False)) as fake,
            remotes(folder, deployment_of("openai", fake), clock=clock, openai_poll_seconds=HOUR) as (provider,),
            rest(fake.api_base, authorization=f"Bearer {fake.key}") as client,
        ):
            fake.fault(Answer(400), times=1000, where=LIST)
            batch_id = (await create(client, fake.add_file(INPUT))).json()["id"]
            batch = await provider.adopt_batch("team", batch_id)
            fake.requests.clear()
            fake.run(batch_id)
            fake.fault(Held(gate), where=GET)
            clock.now += LATE
            yield fake, provider, batch, gate

    async def test_outlives_who_leaves(self, tmp_path: Path) -> None:
        async with self._held(tmp_path) as (fake, provider, batch, gate):
            polls = [asyncio.create_task(provider.batch(batch, fresh=False)) for _ in range(2)]
            await fake.arrival(GET)
            polls[0].cancel()
            gate.set()
            assert (await polls[1]).status == "completed"
            assert sum(map(GET, fake.requests)) == 1

    async def test_ends_when_nobody_waits(self, tmp_path: Path) -> None:
        async with self._held(tmp_path) as (fake, provider, batch, _):
            poll = asyncio.create_task(provider.batch(batch, fresh=False))
            seen = await fake.arrival(GET)
            poll.cancel()
            await seen.ended.wait()
            assert seen.left
            assert await provider.batch(batch, fresh=False) == batch
