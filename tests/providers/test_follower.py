"""Batches are followed with few calls, their results are their owner's, and what is elsewhere is found there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.deployments import QUICK, deployment_of
from tests.harness import until
from tests.rest.conftest import opened, refusal
from tests.upstream.faults import Answer
from tests.upstream.openai import fake_openai
from tests.upstream.plain import create as create_there
from tests.upstream.plain import rest
from tests.upstream.quirks import Quirks

from batchyard.service.config.settings import LocalSettings
from batchyard.service.domain.records import IdempotencyKey
from batchyard.service.errors import NotFound
from batchyard.service.providers.remote.columns import adopted_values, file_values
from batchyard.service.registry.deployment import Intent, RemoteRegistry
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry

from .scene import GET, GET_FILE, INPUT, LIST, Scene, before, scene

PATIENCE = 10.0
STUCK = Quirks(auto=False)


async def batch_at(found: Scene, batch_id: str) -> dict[str, Any]:
    return dict((await found.door.rest.get(f"/v1/batches/{batch_id}")).json())


class TestFollowing:
    async def test_costs_one_call_an_interval_however_many_poll(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=STUCK, openai_poll_seconds=0.3) as found:
            file_id = await found.input()
            ids = [(await found.post(file_id)).json()["id"] for _ in range(3)]
            first, loop = found.calls(LIST), asyncio.get_running_loop()
            began = loop.time()
            polls = 0
            while found.calls(LIST) < first + 3:
                await asyncio.gather(*(batch_at(found, batch_id) for batch_id in ids * 5))
                polls += 15
            intervals = (loop.time() - began) / 0.3
            assert polls > 30
            assert found.calls(LIST) - first <= intervals + 2
            assert found.calls(GET) == 0

    async def test_stops_when_all_have_ended(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            await found.door.ended((await found.door.create(await found.input()))["id"])
            looks = found.calls(LIST)
            await until(lambda: found.door.rest.get("/v1/batches"), lambda _: True)
            for _ in range(20):
                await found.door.rest.get("/v1/batches")
            assert found.calls(LIST) <= looks + 1

    async def test_goes_on_past_a_deployment_that_fails(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            batch_id = (await found.post(file_id)).json()["id"]
            for answer in (Answer(400), Answer(401), Answer(200, b"nonsense"), Answer(200, {"data": [1, {}]})):
                found.fake.fault(answer, where=LIST)
            assert (await found.door.ended(batch_id))["status"] == "completed"

    async def test_asks_for_one_that_no_list_shows(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            batch_id = (await found.post(await found.input())).json()["id"]
            found.fake.fault(Answer(200, {"object": "list", "data": [], "has_more": False}), times=1000, where=LIST)
            assert (await found.door.ended(batch_id))["status"] == "completed"

    async def test_is_over_when_a_batch_has_ended(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            file_id = await found.input()
            batch = await found.door.ended((await found.post(file_id)).json()["id"])
            found.fake.batches[batch["id"]]["status"] = "in_progress"
            other = await found.door.ended((await found.post(file_id)).json()["id"])  # this list shows both
            assert other["status"] == "completed"
            assert await batch_at(found, batch["id"]) == batch
            refusal(await found.door.rest.post(f"/v1/batches/{batch['id']}/cancel"), 409)


class TestResults:
    async def test_are_the_owners_when_they_are_seen(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as found:
            batch = await found.door.ended((await found.post(await found.input())).json()["id"])
            listed = (await found.door.rest.get("/v1/files?purpose=batch_output")).json()["data"]
            assert [file["id"] for file in listed] == [batch["output_file_id"]]
            content = await found.door.rest.get(f"/v1/files/{batch['output_file_id']}/content")
            assert content.content == found.fake.files[batch["output_file_id"]].data

    async def test_that_can_not_be_described_yet_hold_an_end_back(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as found:
            file_id = await found.input()
            batch_id = (await found.post(file_id)).json()["id"]
            found.fake.fault(Answer(429), times=3, where=GET_FILE)
            batch = await found.door.ended(batch_id)
            assert (batch["status"], batch["error_file_id"]) == ("completed", None)
            assert found.fake.faults == []

    async def test_that_are_asked_for_before_they_are_known_are_looked_for_once(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=STUCK, openai_poll_seconds=3600) as found:
            batch_id = (await found.post(await found.input())).json()["id"]
            await found.fake.arrival(LIST)
            looks = found.calls(LIST)
            found.fake.run(batch_id)
            output = found.fake.batches[batch_id]["output_file_id"]
            answers = await asyncio.gather(*(found.door.rest.get("/v1/files/file-missing") for _ in range(5)))
            for answer in answers:
                refusal(answer, 404)
            assert found.calls(LIST) == looks
            refusal(await found.door.rest.get(f"/v1/files/{output}"), 404)

    async def test_that_are_missing_are_looked_for(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=STUCK, openai_poll_seconds=1.0) as found:
            batch_id = (await found.post(await found.input())).json()["id"]
            found.fake.run(batch_id)
            output = found.fake.batches[batch_id]["output_file_id"]
            answer = await until(
                lambda: found.door.rest.get(f"/v1/files/{output}/content"), lambda got: got.status_code == 200, PATIENCE
            )
            assert answer.content == found.fake.files[output].data


class TestFromBefore:
    @asynccontextmanager
    async def _found(self, folder: Path) -> AsyncIterator[tuple[Scene, str, str]]:
        async with scene(folder, quirks=STUCK) as found:
            file_id = found.fake.add_file(INPUT)
            async with rest(found.fake.api_base, authorization=f"Bearer {found.fake.key}") as client:
                batch_id = (await create_there(client, file_id)).json()["id"]
            yield found, file_id, batch_id

    async def test_is_there_on_the_providers_own_route(self, tmp_path: Path) -> None:
        async with self._found(tmp_path) as (found, file_id, batch_id):
            get = found.door.rest.get
            assert (await get(f"/openai/v1/files/{file_id}")).json()["id"] == file_id
            assert (await get(f"/openai/v1/files/{file_id}/content")).content == INPUT
            assert (await get(f"/openai/v1/batches/{batch_id}")).json()["input_file_id"] == file_id
            cancelled = await found.door.rest.post(f"/openai/v1/batches/{batch_id}/cancel")
            assert cancelled.json()["status"] == "cancelling"
            made = await found.door.rest.post(
                "/openai/v1/batches",
                json={"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
            )
            assert made.json()["input_file_id"] == file_id
            assert [batch["id"] for batch in await found.listed()] == [made.json()["id"]]

    async def test_may_be_deleted_there(self, tmp_path: Path) -> None:
        async with self._found(tmp_path) as (found, _, _):
            file_id = found.fake.add_file(INPUT)
            assert (await found.door.rest.delete(f"/openai/v1/files/{file_id}")).json()["deleted"]
            assert found.fake.files[file_id].deleted
            refusal(await found.door.rest.get(f"/openai/v1/files/{file_id}"), 404)

    async def test_is_nowhere_without_a_route(self, tmp_path: Path) -> None:
        async with self._found(tmp_path) as (found, file_id, batch_id):
            for path in (f"files/{file_id}", f"files/{file_id}/content", f"batches/{batch_id}"):
                refusal(await found.door.rest.get(f"/v1/{path}"), 404)

    @pytest.mark.parametrize("name", ["file-missing", "%2e%2e", "..;x", "a%20b", "x" * 300, "file%2Fx"])
    async def test_is_no_way_to_other_paths(self, tmp_path: Path, name: str) -> None:
        async with self._found(tmp_path) as (found, _, _):
            asked = len(found.fake.requests)
            for kind in ("files", "batches"):
                answer = await found.door.rest.get(f"/openai/v1/{kind}/{name}")
                assert answer.status_code in {400, 404}, answer.text
            paths = [seen.path for seen in found.fake.requests[asked:]]
            assert all(path in {f"/v1/files/{name}", f"/v1/batches/{name}"} or "batches" in path for path in paths)
            assert name == "file-missing" or not [path for path in paths if path != "/v1/batches"]


async def test_what_is_at_a_deployment_that_is_gone_says_so(tmp_path: Path) -> None:
    async with fake_openai() as fake:
        async with before(fake, tmp_path) as found:
            file_id = await found.input()
            batch = await found.door.ended((await found.post(file_id)).json()["id"])
        async with opened(tmp_path, local=LocalSettings(echo=True), default_provider="local") as door:
            assert (await door.rest.get(f"/v1/batches/{batch['id']}")).json() == batch
            assert len((await door.rest.get("/v1/files")).json()["data"]) == 2
            for answer in (
                await door.rest.get(f"/v1/files/{file_id}/content"),
                await door.rest.delete(f"/v1/files/{file_id}"),
                await door.rest.post(f"/v1/batches/{batch['id']}/cancel"),
            ):
                assert "not configured any more" in refusal(answer, 400)["message"]


async def test_an_id_that_two_deployments_have_is_ours_the_second_time(tmp_path: Path) -> None:
    async with fake_openai() as one, fake_openai() as other:  # the same key: the same ids
        deployments = (deployment_of("openai", one), deployment_of("openai", other, name="second"))
        settings: dict[str, Any] = {"local": None, "deployments": deployments, "default_provider": "openai"}
        async with opened(tmp_path, upstream=QUICK, **settings) as door:
            first = await door.upload(INPUT)
            sent = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", INPUT + b"\n")}}
            second = (await door.rest.post("/second/v1/files", **sent)).json()  # type: ignore[arg-type]
            assert set(one.files) == set(other.files) == {first["id"]}
            assert second["id"] != first["id"]
            assert (await door.rest.get(f"/v1/files/{second['id']}/content")).content == INPUT + b"\n"
            assert (await door.rest.get(f"/v1/files/{first['id']}/content")).content == INPUT
            batch = await door.ended((await door.create(second["id"]))["id"])
            assert (batch["input_file_id"], batch["status"]) == (second["id"], "completed")
            assert (len(one.batches), len(other.batches)) == (0, 1)
            await door.rest.delete(f"/v1/files/{second['id']}")
            assert (one.files[first["id"]].deleted, other.files[first["id"]].deleted) == (False, True)


class TestARegistry:
    @asynccontextmanager
    async def _opened(self, folder: Path) -> AsyncIterator[SqliteDatabase]:
        folder.mkdir(exist_ok=True)
        database = SqliteDatabase(f"sqlite:///{folder / 'registry.sqlite3'}", lambda _: None)
        try:
            yield database
        finally:
            database.close()

    async def test_keeps_tenants_apart(self, tmp_path: Path) -> None:
        async with self._opened(tmp_path) as database:
            registry = RemoteRegistry(database, "openai", lambda _: None)
            batch = await registry.adopt_batch(
                "one", "batch_1", adopted_values({"id": "batch_1", "status": "validating"}, "openai", 7)
            )
            file = file_values({"id": "file-1", "purpose": "batch_output"}, "openai", 7)
            seen = await registry.observe(
                batch, {"status": "completed"}, {"output_file_id": file | {"native_id": "file-1"}}
            )
            mine, others = TenantRegistry(database, "one"), TenantRegistry(database, "two")
            assert (await mine.get_file("file-1")).tenant == seen.tenant == "one"
            for call in (others.get_file("file-1"), others.get_batch("batch_1"), others.cancel_batch("batch_1", "", 8)):
                with pytest.raises(NotFound):
                    await call
            assert await others.list_batches(provider="", after="", limit=10) == ([], False)
            assert (await registry.add_file("two", "file-1", file)).tenant == "one"
            assert (await registry.adopt_batch("two", "batch_1", {})).tenant == "one"

    async def test_gives_no_results_to_another_tenants_batch(self, tmp_path: Path) -> None:
        async with self._opened(tmp_path) as database:
            registry = RemoteRegistry(database, "openai", lambda _: None)
            await registry.add_file("one", "file-1", file_values({"purpose": "batch_output"}, "openai", 7))
            batch = await registry.adopt_batch("two", "batch_2", adopted_values({"status": "validating"}, "openai", 7))
            row = file_values({"purpose": "batch_output"}, "openai", 7) | {"native_id": "file-1"}
            seen = await registry.observe(batch, {"status": "completed"}, {"output_file_id": row})
            assert (seen.status, seen.output_file_id) == ("completed", None)

    async def test_ends_an_intent_whose_key_made_something_elsewhere(self, tmp_path: Path) -> None:
        async with self._opened(tmp_path) as database:
            registry, owner = RemoteRegistry(database, "openai", lambda _: None), TenantRegistry(database, "one")
            values = adopted_values({"status": "validating"}, "openai", 7)
            request = {
                "source": {"input_file_id": "file-1"},
                "marked": True,
                **{
                    name: values[name]
                    for name in (
                        "provider",
                        "endpoint",
                        "input_file_id",
                        "completion_window",
                        "metadata",
                        "output_seconds",
                    )
                },
            }
            intent = Intent("i", "one", "openai", request, "k", "d", 7)
            await registry.begin(owner, intent, None, None)
            elsewhere = {**values, "id": "batch_0", "provider": "local", "observed_at": None, "upstream": None}
            await owner.add_batch(elsewhere, IdempotencyKey("k", "other", 7))
            made = await registry.complete(
                intent, "batch_1", {"status": "validating", "created_at": 7, "expires_at": 8}
            )
            assert (made.native_id, await registry.intents()) == ("batch_1", [])
