"""Limits of keys and of tenants, over gRPC and REST: what is beyond one is refused in the same words."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from tests.harness import KEY, Client, chat_lines, jsonl, plain_client, refused, until
from tests.rest.conftest import Door, batch_request, opened, refusal
from tests.statuses import told

from batchyard.service.config.settings import Key, LocalSettings, Quotas, Tenant
from batchyard.v1 import (
    Batch,
    BatchStatus,
    CancelBatchRequest,
    DeleteFileRequest,
    ListBatchesRequest,
    UploadFileMetadata,
    UploadFileRequest,
)

BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED
DATA = jsonl(chat_lines(3))
TOKENS = 32  # of DATA, as the scan estimates them
SLOW = LocalSettings(echo=True, echo_delay_ms=60_000)
WHO = {"one": "team-a", "two": "team-a", "other": "team-b"}


class Clock:
    """Wall time that tests move."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Holder:
    """Somebody with a key, over gRPC and REST, and the file that batches are made of."""

    grpc: Client
    rest: httpx.AsyncClient
    file_id: str = ""

    async def read(self) -> None:
        await self.grpc.stub.ListBatches(ListBatchesRequest(), metadata=self.grpc.metadata)

    async def upload(self) -> None:
        self.file_id = (await self.grpc.upload(DATA)).id

    async def create(self, **more: Any) -> Batch:
        return await self.grpc.create(self.file_id, **more)

    async def over_rest(self, what: str) -> httpx.Response:
        if what == "upload":
            return await self.rest.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", DATA)})
        if what == "create":
            return await self.rest.post("/v1/batches", json=batch_request(self.file_id))
        return await self.rest.get("/v1/batches")

    @asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """An upload is under way."""
        call = self.grpc.stub.UploadFile(metadata=self.grpc.metadata)
        await call.write(UploadFileRequest(metadata=UploadFileMetadata(purpose="batch", filename="a.jsonl")))
        await call.write(UploadFileRequest(data=DATA))
        yield
        call.cancel()


@asynccontextmanager
async def held(
    folder: Path,
    *,
    clock: Callable[[], float] = time,
    local: LocalSettings = SLOW,
    tenants: tuple[Tenant, ...] = (),
    usual: Quotas = Quotas(),  # noqa: B008 - never changed
    **limits: Quotas,
) -> AsyncIterator[tuple[Door, dict[str, Holder]]]:
    """A front door with two keys of a tenant and one of another; `limits` are the keys'."""
    keys = tuple(Key(name=n, key=f"sk-{n}", tenant=t, limits=limits.get(n, Quotas())) for n, t in WHO.items())
    async with AsyncExitStack() as stack:
        settings: dict[str, Any] = {"keys": keys, "tenants": tenants, "tenant_limits": usual, "local": local}
        door = await stack.enter_async_context(opened(folder, clock=clock, **settings))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{door.server.grpc_port}"))
        holders = {}
        for name in WHO:
            rest = plain_client(str(door.rest.base_url), headers={"authorization": f"Bearer sk-{name}"}, timeout=60)
            holders[name] = Holder(Client(channel, f"sk-{name}"), await stack.enter_async_context(rest))
        yield door, holders


class Case(NamedTuple):
    """A limit, which its holder uses up by doing `what` so often and may then not do once more."""

    limit: str
    most: int
    what: str
    times: int
    retry_after: tuple[int, int]


CASES = (
    Case("requests_per_minute", 3, "read", 3, (15, 20)),
    Case("stored_bytes", len(DATA) * 3 // 2, "upload", 1, (60, 60)),
    Case("batches_in_flight", 2, "create", 2, (30, 30)),
    Case("enqueued_tokens", TOKENS * 3 // 2, "create", 1, (30, 30)),
    Case("lines_per_day", 8, "create", 2, (86_300, 86_400)),
    Case("tokens_per_day", TOKENS * 3 - 1, "create", 2, (86_300, 86_400)),
)


WHOSE = {"key": "API key 'one'", "tenant": "tenant 'team-a'"}


def bounding(what: str, quotas: Quotas) -> dict[str, Any]:
    """How a front door is held so."""
    return {"one": quotas} if what == "key" else {"tenants": (Tenant(name="team-a", limits=quotas),)}


async def assert_refused(holder: Holder, what: str, limit: str, whose: str, retry_after: tuple[int, int]) -> None:
    low, high = retry_after
    async with refused(BUSY) as errors:
        await getattr(holder, what)()
    error = told(errors[0])
    assert (error.reason, error.type, error.param, error.code) == ("BUSY", "requests", None, "rate_limit_exceeded")
    assert error.message.startswith(f"Rate limit reached for {whose} on ")
    assert f"({limit}): Limit " in error.message
    assert low <= (error.retry_after or 0) <= high
    answer = await holder.over_rest(what)
    found = refusal(answer, 429)
    assert (found["type"], found["param"], found["code"]) == ("requests", None, "rate_limit_exceeded")
    assert f"{whose} on " in found["message"]
    assert low <= int(answer.headers["retry-after"]) <= high


@pytest.mark.parametrize("bound", ["key", "tenant"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.limit)
async def test_a_limit_holds_for_its_key_or_for_all_keys_of_its_tenant(tmp_path: Path, case: Case, bound: str) -> None:
    quotas = Quotas(**{case.limit: case.most})
    async with held(tmp_path, **bounding(bound, quotas)) as (_, holders):
        for holder in holders.values():
            if case.what == "create":
                await holder.upload()
        for _ in range(case.times):
            await getattr(holders["one"], case.what)()
        whose = WHOSE[bound]
        await assert_refused(holders["one"], case.what, case.limit, whose, case.retry_after)
        if bound == "key":
            await getattr(holders["two"], case.what)()
        else:
            await assert_refused(holders["two"], case.what, case.limit, whose, case.retry_after)
        await getattr(holders["other"], case.what)()


async def test_the_master_key_counts_for_its_tenant_and_every_tenant_by_itself(tmp_path: Path) -> None:
    tenants = (Tenant(name="default", limits=Quotas(batches_in_flight=1)),)
    async with held(tmp_path, tenants=tenants, usual=Quotas(batches_in_flight=2)) as (door, holders):
        master = Holder(door.grpc, door.rest)
        for holder, most in ((master, 1), (holders["one"], 2), (holders["other"], 2)):
            await holder.upload()
            for _ in range(most):
                await holder.create()
        await assert_refused(master, "create", "batches_in_flight", "tenant 'default'", (30, 30))
        await assert_refused(holders["one"], "create", "batches_in_flight", "tenant 'team-a'", (30, 30))


async def test_a_tenant_has_the_limits_of_all_where_it_sets_none(tmp_path: Path) -> None:
    tenants = (Tenant(name="team-a", limits=Quotas(stored_bytes=10**9)),)
    async with held(tmp_path, tenants=tenants, usual=Quotas(batches_in_flight=1, stored_bytes=1)) as (_, holders):
        await holders["one"].upload()
        await holders["one"].create()
        await assert_refused(holders["one"], "create", "batches_in_flight", "tenant 'team-a'", (30, 30))
        await assert_refused(holders["other"], "upload", "stored_bytes", "tenant 'team-b'", (60, 60))


@pytest.mark.parametrize("bound", ["key", "tenant"])
async def test_so_many_uploads_are_under_way_at_once(tmp_path: Path, bound: str) -> None:
    quotas = Quotas(concurrent_uploads=1)
    whose = WHOSE[bound]
    async with held(tmp_path, **bounding(bound, quotas)) as (_, holders):
        for holder in holders.values():
            await holder.upload()
        async with holders["one"].uploading():
            await until(lambda: _refusal(holders["one"].upload), bool)
            await assert_refused(holders["one"], "upload", "concurrent_uploads", whose, (1, 1))
            if bound == "key":
                await holders["two"].upload()
            else:
                await assert_refused(holders["two"], "upload", "concurrent_uploads", whose, (1, 1))
            await holders["other"].upload()
        await until(lambda: _refusal(holders["one"].upload), lambda refusal: not refusal)


async def test_files_that_come_together_do_not_pass_the_bytes_together(tmp_path: Path) -> None:
    most = len(DATA) * 7 // 2
    async with held(tmp_path, tenants=(Tenant(name="team-a", limits=Quotas(stored_bytes=most)),)) as (_, holders):
        one, two = holders["one"], holders["two"]
        ends = await asyncio.gather(*(_refusal(holder.upload) for holder in (one, two) for _ in range(10)))
        assert ends.count("") <= 3
        while not await _refusal(one.upload):
            ends.append("")
        assert ends.count("") == 3
        assert f"Limit {most}, Used {3 * len(DATA)}, Requested " in await _refusal(two.upload)


async def test_a_file_that_is_deleted_makes_room(tmp_path: Path) -> None:
    async with held(tmp_path, one=Quotas(stored_bytes=len(DATA))) as (_, holders):
        one = holders["one"]
        await one.upload()
        assert await _refusal(one.upload)
        await one.grpc.stub.DeleteFile(DeleteFileRequest(file_id=one.file_id), metadata=one.grpc.metadata)
        await one.upload()


async def test_a_file_is_refused_before_it_comes_where_its_size_is_known(tmp_path: Path) -> None:
    async with held(tmp_path, one=Quotas(stored_bytes=200_000)) as (_, holders):
        one = holders["one"].grpc
        async with refused(BUSY) as errors:
            announced = UploadFileMetadata(purpose="user_data", filename="a", size_hint=1 << 30)
            call = one.stub.UploadFile(metadata=one.metadata)
            await call.write(UploadFileRequest(metadata=announced))
            await call.write(UploadFileRequest(data=b"x"))
            await call
        assert "(stored_bytes): Limit 200000, Used 0, Requested 10736" in told(errors[0]).message


async def test_batches_that_come_together_do_not_pass_a_limit_together(tmp_path: Path) -> None:
    tenants = (Tenant(name="team-a", limits=Quotas(batches_in_flight=3, lines_per_day=100)),)
    async with held(tmp_path, tenants=tenants) as (_, holders):
        one, two = holders["one"], holders["two"]
        await one.upload()
        two.file_id = one.file_id
        ends = await asyncio.gather(*(_refusal(holder.create) for holder in (one, two) for _ in range(10)))
        assert ends.count("") == 3


async def test_a_repeat_under_an_idempotency_key_is_not_another_batch(tmp_path: Path) -> None:
    async with held(tmp_path, one=Quotas(batches_in_flight=1)) as (_, holders):
        one = holders["one"]
        await one.upload()
        made = [await one.create(idempotency_key="k") for _ in range(2)]
        assert made[0].id == made[1].id
        assert await _refusal(one.create)


async def test_lines_come_back_a_day_after_their_batch(tmp_path: Path) -> None:
    clock = Clock()
    async with held(tmp_path, clock=clock, local=replace(SLOW, echo_delay_ms=0), one=Quotas(lines_per_day=7)) as (
        _,
        holders,
    ):
        one = holders["one"]
        await one.upload()
        for _ in range(2):
            await one.grpc.ended((await one.create()).id)
            clock.now += 600
        async with refused(BUSY) as errors:
            await one.create()
        assert told(errors[0]).retry_after == 86_400 - 1200
        clock.now += 86_400 - 1200
        await one.create()


async def test_a_cancelled_batch_gives_back_what_did_not_run(tmp_path: Path) -> None:
    limits, alone = (
        Quotas(lines_per_day=3, enqueued_tokens=TOKENS, batches_in_flight=1),
        replace(SLOW, max_active_batches=1),
    )
    async with held(tmp_path, local=alone, one=limits) as (_, holders):
        one, first = holders["one"], holders["other"]
        await first.upload()
        running = await first.create()  # in the only place: no line of the others begins
        await until(lambda: first.grpc.get(running.id), lambda batch: batch.in_progress_at > 0)
        await one.upload()
        for _ in range(3):
            batch = await one.create()
            assert await _refusal(one.create)
            await one.grpc.stub.CancelBatch(CancelBatchRequest(batch_id=batch.id), metadata=one.grpc.metadata)
            assert (await one.grpc.ended(batch.id)).request_counts.completed == 0


async def test_a_batch_that_fails_in_its_validation_uses_nothing(tmp_path: Path) -> None:
    async with held(tmp_path, one=Quotas(lines_per_day=3, tokens_per_day=TOKENS)) as (_, holders):
        one = holders["one"]
        await one.upload()
        for _ in range(3):
            batch = await one.grpc.ended((await one.create(endpoint="/v1/embeddings")).id)
            assert batch.status == BatchStatus.BATCH_STATUS_FAILED
        missing = await one.grpc.ended((await one.grpc.create("file-none")).id)
        assert missing.status == BatchStatus.BATCH_STATUS_FAILED
        await one.create()


async def test_an_ended_batch_counts_what_it_used_also_after_a_restart(tmp_path: Path) -> None:
    quick, limits = replace(SLOW, echo_delay_ms=0), Quotas(tokens_per_day=10_000)
    async with held(tmp_path, local=quick, one=limits) as (_, holders):
        one = holders["one"]
        await one.upload()
        used = (await one.grpc.ended((await one.create()).id)).usage.total_tokens
        assert 0 < used < TOKENS
    async with held(tmp_path, local=quick, one=replace(limits, tokens_per_day=used + TOKENS - 1)) as (_, holders):
        holders["one"].file_id = one.file_id
        said = await _refusal(holders["one"].create)
        assert f"Limit {used + TOKENS - 1}, Used {used}, Requested {TOKENS}. " in said


async def test_nothing_is_bounded_for_who_has_no_key_and_shows_none(tmp_path: Path) -> None:
    async with held(tmp_path, usual=Quotas(requests_per_minute=1)) as (door, holders):
        stranger = holders["one"].grpc
        stranger.metadata = (("authorization", f"Bearer {KEY}x"),)
        for _ in range(3):
            async with refused(grpc.StatusCode.UNAUTHENTICATED):
                await stranger.get("batch_1")
        for _ in range(3):
            assert (await door.rest.get("/health/readiness")).status_code == 200


async def _refusal(call: Callable[[], Any]) -> str:
    """Why a call was refused for a limit; empty where it was not."""
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        if error.code() is not BUSY:
            raise
        return error.details() or ""
    return ""
