"""A file is deleted at its deployment, and no batch is left that reads it: neither slips in between."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.harness import until
from tests.rest.conftest import refusal
from tests.upstream.faults import Answer, Held, Reset, to
from tests.upstream.quirks import Quirks

from .scene import CREATE, Provider, Scene, scene

DELETE = to("DELETE", "/files/[^/]+")
HELD = Quirks(auto=False)
PROVIDERS: list[Provider] = ["openai", "azure"]


async def delete(found: Scene, file_id: str) -> Any:
    return await found.door.rest.delete(f"/v1/files/{file_id}")


async def arrived(found: Scene, where: Any) -> None:
    async def calls() -> int:
        return found.calls(where)

    await until(calls, lambda count: count == 1)


class TestABatchThatIsCreatedDuringTheDeletion:
    @pytest.mark.parametrize("provider", PROVIDERS)
    async def test_fails_as_its_input_is_gone(self, tmp_path: Path, provider: Provider) -> None:
        gate = asyncio.Event()
        async with scene(tmp_path, provider) as found:
            file_id = await found.input()
            found.fake.fault(Held(gate), where=DELETE)
            deleting = asyncio.create_task(delete(found, file_id))
            await arrived(found, DELETE)
            batch = await found.door.ended((await found.post(file_id)).json()["id"])
            gate.set()
            assert (await deleting).json()["deleted"]
            assert (batch["status"], batch["errors"]["data"][0]["param"]) == ("failed", "file_id")
            assert f"Cannot find file {file_id}" in batch["errors"]["data"][0]["message"]
            assert (found.calls(CREATE), found.intents()) == (0, 0)
            assert (await found.door.rest.get(f"/v1/files/{file_id}")).status_code == 404

    async def test_runs_when_that_failed_and_it_is_created_again(self, tmp_path: Path) -> None:
        async with scene(tmp_path, max_attempts=1) as found:
            file_id = await found.input()
            for fault in (Answer(500), Answer(403), Answer(429)):
                found.fake.fault(fault, where=DELETE)
                assert (await delete(found, file_id)).status_code >= 400
            batch = (await found.post(file_id)).json()
            assert (await found.door.ended(batch["id"]))["status"] == "completed"
            assert (await delete(found, file_id)).json()["deleted"]

    async def test_is_held_off_until_the_last_of_several_deletions_has_ended(self, tmp_path: Path) -> None:
        gates = [asyncio.Event(), asyncio.Event()]
        async with scene(tmp_path, max_attempts=1) as found:
            file_id = await found.input()
            for gate in gates:
                found.fake.fault(Held(gate), where=DELETE)
            found.fake.fault(Answer(500), where=DELETE)
            first, second = (asyncio.create_task(delete(found, file_id)) for _ in gates)

            async def calls() -> int:
                return found.calls(DELETE)

            await until(calls, lambda count: count == 2)
            assert (await delete(found, file_id)).status_code == 500
            batch = await found.door.ended((await found.post(file_id)).json()["id"])
            for gate in gates:
                gate.set()
            codes = sorted([(await first).status_code, (await second).status_code])
            assert (batch["status"], found.calls(CREATE), codes) == ("failed", 0, [200, 404])


class TestADeletionDuringTheCreation:
    @pytest.mark.parametrize("provider", PROVIDERS)
    async def test_is_refused_and_leaves_the_file(self, tmp_path: Path, provider: Provider) -> None:
        gate = asyncio.Event()
        async with scene(tmp_path, provider) as found:
            file_id = await found.input()
            found.fake.fault(Held(gate), where=CREATE)
            creating = asyncio.create_task(found.post(file_id))
            await arrived(found, CREATE)
            error = refusal(await delete(found, file_id), 409)
            gate.set()
            batch = await found.door.ended((await creating).json()["id"])
            assert (error["param"], "is being created" in error["message"]) == ("file_id", True)
            assert (batch["status"], found.calls(DELETE)) == ("completed", 0)
            assert (await delete(found, file_id)).json()["deleted"]

    async def test_is_refused_while_nobody_knows_whether_it_was_created(self, tmp_path: Path) -> None:
        async with scene(tmp_path, quirks=HELD, doubt_seconds=600, call_seconds=0.5) as found:
            file_id = await found.input()
            found.fake.fault(Reset(), where=CREATE)
            assert (await found.post(file_id)).status_code == 503
            refusal(await delete(found, file_id), 409)
            assert found.calls(DELETE) == 0

    async def test_of_another_file_goes_on(self, tmp_path: Path) -> None:
        gate = asyncio.Event()
        async with scene(tmp_path) as found:
            file_id, other = await found.input(), await found.input()
            found.fake.fault(Held(gate), where=CREATE)
            creating = asyncio.create_task(found.post(file_id))
            await arrived(found, CREATE)
            assert (await delete(found, other)).json()["deleted"]
            gate.set()
            assert (await found.door.ended((await creating).json()["id"]))["status"] == "completed"
