"""A batch is created at most once, whatever becomes of the answer, and is lost never."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sized
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from tests.deployments import DOUBT_SECONDS
from tests.harness import KEY, Client, refused, until
from tests.processes import Process, batchyard
from tests.rest.conftest import refusal
from tests.statuses import told
from tests.upstream.faults import Answer, Fault, Hang, Held, Reset
from tests.upstream.openai import fake_openai
from tests.upstream.plain import create as create_there
from tests.upstream.plain import rest
from tests.upstream.quirks import Quirks
from tests.upstream.store import Upstream

from batchyard.service.providers.remote.columns import MARK
from batchyard.v1 import ListBatchesRequest, WatchBatchRequest

from .scene import CREATE, INPUT, LIST, Provider, Scene, before, intents, scene, text

PATIENCE = 10.0
FULL = {f"key-{number}": "value" for number in range(16)}
METADATA = [{}, {"a": "b"}, FULL]
BUSY = Answer(429, headers={"retry-after": "20"})  # a list that nobody tries again, and no breaker counts


def lost(acts: bool) -> list[Fault]:
    """Every way in which the answer to a creation is lost."""
    return [*(Answer(status, acts=acts) for status in (500, 502, 504, 524)), Reset(acts=acts), Hang(acts=acts)]


async def by_itself(found: Scene, count: int = 1) -> list[dict[str, Any]]:
    """The caller's batches, once there are so many and nothing is in doubt."""
    await until(found.listed, lambda listed: len(listed) >= count, PATIENCE)
    await until(doubts(found), lambda doubt: doubt == 0, PATIENCE)
    return await found.listed()


def doubts(found: Scene) -> Callable[[], Any]:
    async def look() -> int:
        return found.intents()

    return look


class TestALostAnswer:
    @pytest.mark.parametrize("metadata", METADATA, ids=["none", "one", "sixteen"])
    @pytest.mark.parametrize("fault", lost(acts=True), ids=repr)
    async def test_after_the_deed_is_looked_for(self, tmp_path: Path, fault: Fault, metadata: dict[str, str]) -> None:
        async with scene(tmp_path, call_seconds=0.5) as found:
            file_id = await found.input()
            found.fake.fault(fault, where=CREATE)
            answer = await found.post(file_id, metadata=metadata)
            assert answer.status_code == 200, answer.text
            assert answer.json()["metadata"] == (metadata or None)
            assert (
                [batch["id"] for batch in await by_itself(found)] == [answer.json()["id"]] == list(found.fake.batches)
            )
            assert found.calls(CREATE) == 1

    @pytest.mark.parametrize("provider", ["openai", "azure"])
    @pytest.mark.parametrize("fault", lost(acts=False), ids=repr)
    async def test_before_the_deed_is_told_not_to_be_repeated(
        self, tmp_path: Path, fault: Fault, provider: Provider
    ) -> None:
        async with scene(tmp_path, provider, call_seconds=0.5) as found:
            file_id = await found.input()
            found.fake.fault(fault, where=CREATE)
            answer = await found.post(file_id)
            error = refusal(answer, fault.status if isinstance(fault, Answer) else 503)
            assert answer.headers["x-should-retry"] == "false"
            if not isinstance(fault, Answer):
                assert "may or may not have been created" in error["message"]
            assert (found.calls(CREATE), found.intents(), found.fake.batches) == (1, 1, {})

    async def test_says_so_over_grpc(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Reset(), where=CREATE)
            async with refused(StatusCode.UNAVAILABLE) as errors:
                await found.door.grpc.create(file_id)
            assert told(errors[0]).reason == "UNSURE"

    @pytest.mark.parametrize("metadata", METADATA, ids=["none", "one", "sixteen"])
    async def test_that_nobody_could_look_for_is_settled_later(self, tmp_path: Path, metadata: dict[str, str]) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Reset(acts=True), where=CREATE)
            found.fake.fault(BUSY, times=1000, where=LIST)
            assert (await found.post(file_id, metadata=metadata)).status_code == 503
            found.fake.faults.clear()
            (batch,) = await by_itself(found)
            assert (batch["id"], batch["metadata"]) == (*found.fake.batches, metadata or None)
            assert found.calls(CREATE) == 1

    async def test_that_has_ended_before_it_is_found_has_its_results(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Reset(acts=True), where=CREATE)
            found.fake.fault(BUSY, times=1000, where=LIST)
            assert (await found.post(file_id)).status_code == 503
            (native_id,) = found.fake.batches
            found.fake.run(native_id)
            found.fake.faults.clear()
            await by_itself(found)
            batch = await found.door.ended(native_id)
            assert batch["status"] == "completed"
            assert len(await found.door.grpc.results(batch["output_file_id"])) == 3

    async def test_takes_no_more_time_than_a_call_has(self, tmp_path: Path) -> None:
        async with scene(tmp_path, call_seconds=0.3) as found:
            file_id = await found.input()
            found.fake.fault(Hang(acts=True), where=CREATE)
            found.fake.fault(Hang(), times=1000, where=LIST)
            answer = await found.post(file_id)
            assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")
            found.fake.faults.clear()


class TestAnIntent:
    async def test_is_given_up_when_it_is_sure_that_nothing_came_of_it(self, tmp_path: Path) -> None:
        late = [0.0]
        async with scene(tmp_path, clock=lambda: time() + late[0]) as found:
            file_id = await found.input()
            found.fake.fault(Reset(), where=CREATE)
            assert (await found.post(file_id)).status_code == 503
            assert found.intents() == 1
            late[0] = DOUBT_SECONDS + 1
            await until(doubts(found), lambda doubt: doubt == 0, PATIENCE)
            assert (await found.listed(), found.calls(CREATE)) == ([], 1)

    async def test_is_not_given_up_by_a_clock_that_jumped(self, tmp_path: Path) -> None:
        ahead = [0.0]
        async with scene(tmp_path, clock=lambda: time() + ahead[0], steady=time) as found:
            file_id = await found.input()
            found.fake.fault(Reset(), where=CREATE)
            assert (await found.post(file_id)).status_code == 503
            ahead[0] = 10 * DOUBT_SECONDS + 600
            looks = found.calls(LIST)

            async def look() -> int:
                return found.calls(LIST)

            await until(look, lambda count: count > looks + 5, PATIENCE)
            assert found.intents() == 1

    async def test_outlives_a_provider_that_is_away_for_longer(self, tmp_path: Path) -> None:
        late = [0.0]
        async with scene(tmp_path, clock=lambda: time() + late[0]) as found:
            file_id = await found.input()
            found.fake.fault(Reset(acts=True), where=CREATE)
            found.fake.fault(BUSY, times=10_000, where=LIST)
            assert (await found.post(file_id)).status_code == 503
            late[0] = 10 * DOUBT_SECONDS
            looks = found.calls(LIST)

            async def look() -> int:
                return found.calls(LIST)

            await until(look, lambda count: count > looks + 5, PATIENCE)
            assert found.intents() == 1
            found.fake.faults.clear()
            (batch,) = await by_itself(found)
            assert [batch["id"]] == list(found.fake.batches)

    async def test_is_found_behind_many_others(self, tmp_path: Path) -> None:
        late = [0.0]
        async with scene(tmp_path, quirks=Quirks(auto=False), clock=lambda: time() + late[0]) as found:
            file_id = await found.input()
            found.fake.fault(Reset(acts=True), where=CREATE)
            found.fake.fault(BUSY, times=10_000, where=LIST)
            assert (await found.post(file_id)).status_code == 503
            (made,) = found.fake.batches
            async with rest(found.fake.api_base, authorization=f"Bearer {found.fake.key}") as client:
                for _ in range(320):
                    await create_there(client, file_id)
            late[0] = DOUBT_SECONDS + 1
            found.fake.faults.clear()
            assert [batch["id"] for batch in await by_itself(found)] == [made]

    @pytest.mark.parametrize("status", [400, 404, 429, 503, 501, 521, 529])
    async def test_is_forgotten_when_it_is_refused(self, tmp_path: Path, status: int) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Answer(status), where=CREATE)
            answer = await found.post(file_id, key="k")
            refusal(answer, status)
            assert "x-should-retry" not in answer.headers
            assert (found.intents(), found.fake.batches, found.calls(CREATE)) == (0, {}, 1)
            assert (await found.post(file_id, key="k")).status_code == 200


class TestAnIdempotencyKey:
    async def test_gives_the_same_batch_again(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            answers = [await found.post(file_id, key="k") for _ in range(3)]
            assert len({answer.json()["id"] for answer in answers}) == len(found.fake.batches) == 1

    async def test_of_many_at_once_makes_one_batch(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id, gate = await found.input(), asyncio.Event()
            found.fake.fault(Held(gate), where=CREATE)
            posts = [asyncio.create_task(found.post(file_id, key="k")) for _ in range(8)]
            await found.fake.arrival(CREATE)
            gate.set()
            answers = await asyncio.gather(*posts)
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.json()["id"] for answer in answers}) == len(found.fake.batches) == 1
            assert found.calls(CREATE) == 1

    async def test_of_many_at_once_is_refused_to_all_alike(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Answer(400), where=CREATE)
            answers = await asyncio.gather(*(found.post(file_id, key="k") for _ in range(4)))
            statuses = sorted(answer.status_code for answer in answers)
            assert statuses[-1] == 400
            assert len(found.fake.batches) == (1 if 200 in statuses else 0)

    async def test_of_another_request_is_a_conflict(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id, gate = await found.input(), asyncio.Event()
            found.fake.fault(Held(gate), where=CREATE)
            first = asyncio.create_task(found.post(file_id, key="k"))
            await found.fake.arrival(CREATE)
            during = await found.post(file_id, key="k", metadata={"a": "b"})
            gate.set()
            assert (await first).status_code == 200
            after = await found.post(file_id, key="k", metadata={"a": "b"})
            for answer in (during, after):
                refusal(answer, 409)
                assert answer.headers["x-should-retry"] == "false"
            assert found.calls(CREATE) == 1

    @pytest.mark.parametrize("acts", [True, False])
    async def test_of_a_lost_answer_never_submits_again(self, tmp_path: Path, acts: bool) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            found.fake.fault(Reset(acts=acts), where=CREATE)
            found.fake.fault(BUSY, times=2, where=LIST)
            answers = [await found.post(file_id, key="k") for _ in range(2)]
            assert found.calls(CREATE) == 1
            assert answers[-1].status_code == (200 if acts else 503)
            assert len(await found.listed()) == len(found.fake.batches) == int(acts)


class TestAnotherStart:
    @pytest.mark.parametrize("metadata", METADATA, ids=["none", "one", "sixteen"])
    async def test_registers_what_the_one_before_asked_for(self, tmp_path: Path, metadata: dict[str, str]) -> None:
        async with fake_openai() as fake:
            async with before(fake, tmp_path, call_seconds=0.3) as first:
                file_id = await first.input()
                fake.fault(Hang(acts=True), where=CREATE)
                fake.fault(BUSY, times=10_000, where=LIST)
                assert (await first.post(file_id, metadata=metadata, key="k")).status_code == 503
            assert intents(tmp_path) == 1
            fake.faults.clear()
            async with before(fake, tmp_path) as second:
                (batch,) = await by_itself(second)
                assert batch["metadata"] == (metadata or None)
                assert (await second.post(file_id, metadata=metadata, key="k")).json()["id"] == batch["id"]
                assert [batch["id"]] == list(fake.batches)
                assert second.calls(CREATE) == 1

    @pytest.mark.parametrize("acts", [True, False])
    async def test_goes_on_after_a_kill_in_the_midst(self, tmp_path: Path, acts: bool) -> None:
        async with fake_openai() as fake:
            configure(tmp_path, fake)
            async with client_of_a_process(tmp_path) as (client, process):
                file_id = (await client.upload(INPUT)).id
                fake.fault(Held(asyncio.Event(), acts=acts), where=CREATE)
                call = asyncio.create_task(client.create(file_id, idempotency_key="k"))
                await fake.arrival(CREATE)
                await until(count_of(fake.batches), lambda count: count == int(acts), PATIENCE)
                process.kill()
                async with refused(StatusCode.UNAVAILABLE):
                    await call
            assert intents(tmp_path) == 1
            async with client_of_a_process(tmp_path) as (client, process):
                if acts:
                    assert (await client.create(file_id, idempotency_key="k")).id in fake.batches
                else:
                    async with refused(StatusCode.UNAVAILABLE):
                        await client.create(file_id, idempotency_key="k")
                page = await client.stub.ListBatches(ListBatchesRequest(), metadata=client.metadata)
            assert len(page.data) == len(fake.batches) == int(acts)
            assert sum(map(CREATE, fake.requests)) == 1
            assert intents(tmp_path) == int(not acts)


def count_of(things: Sized) -> Callable[[], Awaitable[int]]:
    async def look() -> int:
        return len(things)

    return look


def configure(folder: Path, fake: Upstream) -> None:
    own = {"log_format": "text", "upstream": {"openai_poll_seconds": 0.05}}
    entry = {"custom_llm_provider": "openai", "api_base": fake.api_base, "api_key": fake.key}
    whole = {"general_settings": {"master_key": KEY}, "files_settings": [entry], "batchyard": own}
    (folder / "config.yaml").write_text(json.dumps(whole))


@asynccontextmanager
async def client_of_a_process(folder: Path) -> AsyncIterator[tuple[Client, Process]]:
    with batchyard(folder) as process:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await process.port()}") as channel:
            yield Client(channel), process


async def test_our_mark_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        file_id = await found.input()
        made = await found.post(file_id, metadata={"a": "b"})
        (sent,) = [seen.body["metadata"] for seen in found.fake.requests if CREATE(seen)]
        assert set(sent) == {"a", MARK}
        client, batch_id = found.door.grpc, made.json()["id"]
        watch = client.stub.WatchBatch(WatchBatchRequest(batch_id=batch_id), metadata=client.metadata)
        states = [message.batch async for message in watch]
        seen = [made.text, *map(str, states), *map(text, await found.listed()), str(await client.get(batch_id))]
        seen.append((await found.door.rest.get(f"/v1/batches/{batch_id}")).text)
        seen.append((await found.door.rest.get(f"/v1/batches/{batch_id}/events")).text)
        assert states
        assert all("mark" not in one and MARK not in one for one in seen)
        assert all(sent[MARK] not in one for one in seen)
