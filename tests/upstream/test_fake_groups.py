"""What the fakes have for model groups: quotas, dead regions, models, and accounts of which line ran where."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from tests.harness import chat_line, jsonl, until
from tests.upstream.azure import FakeAzure, fake_azure
from tests.upstream.census import Census
from tests.upstream.exchange import Seen
from tests.upstream.faults import Held
from tests.upstream.openai import fake_openai
from tests.upstream.plain import create, rest, upload
from tests.upstream.quirks import Quirks
from tests.upstream.store import Upstream

V1 = "/openai/v1"
PENDING = Quirks(auto=False)
AT_ONCE = Quirks(auto=False, pending_reads=0)
LINE = chat_line("a", "x" * 40, model="m")
TOKENS = 18  # of LINE: 75 bytes of messages


@pytest.fixture
async def fake() -> AsyncIterator[FakeAzure]:
    async with fake_azure(AT_ONCE) as running:
        yield running


def client_of(fake: Upstream) -> httpx.AsyncClient:
    if isinstance(fake, FakeAzure):
        return rest(fake.api_base + V1, api_key=fake.key)
    return rest(fake.api_base, authorization=f"Bearer {fake.key}")


async def begun(client: httpx.AsyncClient, *lines: dict[str, Any]) -> httpx.Response:
    """The answer to a request for a batch of these lines."""
    return await create(client, (await upload(client, jsonl(lines))).json()["id"])


async def created(client: httpx.AsyncClient, *lines: dict[str, Any]) -> str:
    answer = await begun(client, *lines)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def named(custom_id: str, **body: Any) -> dict[str, Any]:
    return {**LINE, "custom_id": custom_id, "body": {**LINE["body"], **body}}


class TestAQuota:
    async def test_of_azure_refuses_a_create_beyond_it_and_says_how_much_it_is(self, fake: FakeAzure) -> None:
        fake.quota("m", 2 * TOKENS)
        async with client_of(fake) as client:
            await created(client, named("a"), named("b"))
            assert fake.enqueued("m") == 2 * TOKENS
            refused = await begun(client, named("c"))
        assert refused.status_code == 400
        assert refused.json()["error"] == {
            "code": "token_limit_exceeded",
            "message": "The number of enqueued tokens has surpassed the configured limit of 36 for the deployment 'm'. "
            "Please either increase the limit or try again once the current jobs have finished.",
        }
        assert len(fake.batches) == 1

    @pytest.mark.parametrize(
        ("tokens", "said"), [(30_000, "30K"), (5_000_000, "5M"), (2_000_000_000, "2B"), (1500, "1500")]
    )
    async def test_of_azure_is_told_as_azure_does(self, fake: FakeAzure, tokens: int, said: str) -> None:
        assert f"the configured limit of {said} for the deployment 'm'." in fake.dialect.token_limit("m", tokens)

    async def test_of_openai_fails_a_batch_in_its_validation(self) -> None:
        async with fake_openai(PENDING) as fake, client_of(fake) as client:
            fake.quota("m", TOKENS)
            fits = await created(client, named("a"))
            beyond = await created(client, named("b"))
            assert fake.enqueued("m") == TOKENS
            assert fake.batches[beyond]["status"] == "validating"
            fake.run(fits)
            fake.step(beyond)  # has failed already, though there is room by now
            (error,) = fake.batches[beyond]["errors"]["data"]
            assert (fake.batches[beyond]["status"], error["code"]) == ("failed", "token_limit_exceeded")
            assert (error["line"], error["param"]) == (None, None)
            assert error["message"] == (
                "Enqueued token limit reached for m in organization org-upstream. Limit: 18 enqueued tokens. "
                "Please try again once some in_progress batches have been completed."
            )
            assert (fake.batches[fits]["status"], fake.executed) == ("completed", {"a": 1})

    @pytest.mark.parametrize("fast", [True, False])
    async def test_fails_as_it_is_told(self, fake: FakeAzure, fast: bool) -> None:
        fake.quota("m", TOKENS - 1, fail_fast=fast)
        async with client_of(fake) as client:
            assert (await begun(client, LINE)).status_code == (400 if fast else 200)

    @pytest.mark.parametrize("end", ["run", "cancel", "expire", "fail"])
    async def test_is_free_again_when_a_batch_has_ended(self, fake: FakeAzure, end: str) -> None:
        fake.quota("m", TOKENS)
        async with client_of(fake) as client:
            batch_id = await created(client, LINE)
            if end == "cancel":
                fake.step(batch_id)
                await client.post(f"/batches/{batch_id}/cancel")
                assert fake.enqueued("m") == TOKENS
                fake.run(batch_id)
            elif end == "fail":
                fake.fail(batch_id, [])
            else:
                getattr(fake, end)(batch_id)
            assert fake.enqueued("m") == 0
            await created(client, LINE)

    async def test_is_of_one_model_and_may_be_lifted(self, fake: FakeAzure) -> None:
        fake.quota("m", TOKENS)
        async with client_of(fake) as client:
            await created(client, named("a"))
            await created(client, named("b", model="other"))
            assert (await begun(client, named("c"))).status_code == 400
            fake.quota("m", None)
            await created(client, named("d"))


class TestADeadRegion:
    async def test_breaks_every_connection_until_it_is_up(self, fake: FakeAzure) -> None:
        async with client_of(fake) as client:
            fake.down()
            for _ in range(2):
                with pytest.raises(httpx.TransportError):
                    await client.get("/files")
            with pytest.raises(httpx.TransportError):
                await upload(client)
            fake.up()
            assert (await client.get("/files")).json()["data"] == []
        assert [seen.status for seen in fake.requests] == [None, None, None, 200]

    @pytest.mark.parametrize("acts", [True, False])
    @pytest.mark.parametrize("hang", [True, False])
    async def test_loses_requests_that_run(self, fake: FakeAzure, acts: bool, hang: bool) -> None:
        gate = asyncio.Event()
        async with client_of(fake) as client:
            file_id = (await upload(client)).json()["id"]
            fake.fault(Held(gate, acts=acts), where=lambda seen: seen.method == "POST")
            asking = asyncio.create_task(create(client, file_id))
            seen = await fake.arrival(is_create)
            fake.down(hang=hang)
            gate.set()
            if hang:
                await until(lambda: made(fake), bool)
                assert not asking.done()
                fake.up()
            with pytest.raises(httpx.TransportError):
                await asking
            await seen.ended.wait()
        assert (seen.left, seen.status) == (True, None)
        assert len(fake.batches) == (acts or hang)

    async def test_may_hang_and_then_breaks_what_hung(self, fake: FakeAzure) -> None:
        fake.down(hang=True)
        async with client_of(fake) as client:
            hanging = asyncio.create_task(client.get("/files"))
            seen = await fake.arrival()
            assert not seen.ended.is_set()
            fake.up()
            with pytest.raises(httpx.TransportError):
                await hanging
            assert (await client.get("/files")).status_code == 200


async def made(fake: Upstream) -> int:
    return len(fake.batches)


def is_create(seen: Seen) -> bool:
    return seen.method == "POST" and seen.path.endswith("/batches")


async def test_files_may_stay_pending_for_ever() -> None:
    async with fake_azure(Quirks(pending_reads=1)) as fake, client_of(fake) as client:
        fake.forever_pending()
        file_id = (await upload(client)).json()["id"]
        for _ in range(3):
            assert (await client.get(f"/files/{file_id}")).json()["status"] == "pending"
        assert (await create(client, file_id)).status_code == 400
        fake.forever_pending(False)
        assert (await client.get(f"/files/{file_id}")).json()["status"] == "processed"


async def test_files_may_be_in_error_in_the_end() -> None:
    async with fake_azure(Quirks(pending_reads=2)) as fake, client_of(fake) as client:
        fake.spoil_files()
        file_id = (await upload(client)).json()["id"]
        statuses = [(await client.get(f"/files/{file_id}")).json()["status"] for _ in range(3)]
        assert statuses == ["running", "error", "error"]
        assert (await create(client, file_id)).status_code == 400


async def test_a_model_that_is_not_there_is_not_found(fake: FakeAzure) -> None:
    fake.models = {"m"}
    async with client_of(fake) as client:
        batch_id = await created(client, named("a", model="m"), named("b", model="other"))
        fake.step(batch_id)
        (error,) = fake.batches[batch_id]["errors"]["data"]
        assert (error["code"], error["param"], error["line"]) == ("model_not_found", "body.model", 2)
        assert error["message"] == "The provided model 'other' is not supported by the Batch API."
        fake.models = None
        batch_id = await created(client, named("b", model="other"))
        fake.run(batch_id)
        assert fake.batches[batch_id]["status"] == "completed"


async def test_executed_lines_are_counted(fake: FakeAzure) -> None:
    fake.cut_short_after(lambda total: 1)
    async with client_of(fake) as client:
        whole, cut = await created(client, named("a"), named("b")), await created(client, named("b"), named("c"))
        fake.run(whole)
        assert fake.executed == {"a": 1, "b": 1}
        fake.step(cut)
        await client.post(f"/batches/{cut}/cancel")
        fake.run(cut)
    assert fake.executed == {"a": 1, "b": 2}


async def test_a_census_sees_lines_that_are_in_two_batches_at_once(fake: FakeAzure) -> None:
    async with fake_openai(PENDING) as other, client_of(fake) as first, client_of(other) as second:
        census = Census(fake, other)
        batch_id = await created(first, named("a"), named("b"))
        fake.run(batch_id)
        there = await created(second, named("a"), named("c"))
        assert (census.most, census.doubled()) == (1, set())
        await created(first, named("c"), named("d"))
        assert (census.most, census.doubled()) == (2, {"c"})
        other.run(there)
        assert (census.most, census.doubled()) == (2, set())
        assert census.live == {"c": 1, "d": 1}


async def test_inputs_are_counted_until_they_are_deleted(fake: FakeAzure) -> None:
    async with client_of(fake) as client:
        first = (await upload(client)).json()["id"]
        await upload(client)
        await upload(client, fields={"purpose": "assistants"})
        fake.run((await create(client, first)).json()["id"])
        assert fake.inputs() == 2
        await client.delete(f"/files/{first}")
        assert fake.inputs() == 1


async def test_an_abridged_upload_keeps_little_and_answers_each_line() -> None:
    lines = [named(f"line-{number}", messages=[{"content": "x" * 5000}]) for number in range(100)]
    data = jsonl(lines)[:-1]  # the last one without a newline
    async with fake_openai(Quirks(abridge=True, auto=False)) as fake, client_of(fake) as client:
        file_id = (await upload(client, data)).json()["id"]
        stored = fake.files[file_id]
        assert (stored.size, stored.sha256, stored.lines) == (len(data), sha256(data).hexdigest(), 100)
        assert len(stored.data) < 30_000
        batch = fake.batches[(await create(client, file_id)).json()["id"]]
        fake.run(batch["id"])
        assert batch["request_counts"] == {"total": 100, "completed": 100, "failed": 0}
    assert fake.executed == {line["custom_id"]: 1 for line in lines}
