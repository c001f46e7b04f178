"""Keys of tenants: what is told of them and kept, how long they last, and where they lead."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from time import time
from typing import Any

import grpc
import pytest
from msgspec import structs
from tests.deployments import QUICK, deployment_of
from tests.harness import Client, chat_lines, jsonl, keys_of, refused, service, settings_for, upload_messages
from tests.registries import a_batch
from tests.statuses import told
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks

from batchyard.admin.v1 import (
    CheckHealthRequest,
    CreateKeyRequest,
    Key,
    KeyLimits,
    KeySource,
    KeyState,
    ListKeysRequest,
    RevokeKeyRequest,
    RotateKeyRequest,
)
from batchyard.service.config.settings import Key as ConfiguredKey
from batchyard.service.config.settings import LocalSettings, Quotas
from batchyard.service.domain.keys import KeyRecord
from batchyard.service.domain.records import IdempotencyKey
from batchyard.service.errors import AlreadyExists, Unauthenticated
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.v1 import ListBatchesRequest, ListFilesRequest, UploadFileMetadata, WatchBatchRequest

CONFIGURED = ConfiguredKey(name="ci", key="sk-hunter2", tenant="builds", limits=Quotas(lines_per_day=5))


class Clock:
    """The time, and `ahead` seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def master(tmp_path: Path, clock: Clock) -> AsyncIterator[Client]:
    """A client with the master key."""
    async with service(settings_for(tmp_path, keys=(CONFIGURED,)), clock=clock) as (_, client):
        yield client


async def admin(client: Client, name: str, request: Any) -> Any:
    return await getattr(client.admin, name)(request, metadata=client.metadata)


async def let_in(client: Client, secret: str) -> bool:
    call = client.stub.ListFiles(ListFilesRequest(), metadata=client.having(secret).metadata)
    code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
    return code is grpc.StatusCode.OK


class TestAKey:
    async def test_is_told_with_all_that_it_may(self, master: Client) -> None:
        limits = KeyLimits(requests_per_minute=60, tokens_per_day=10**9)
        request = CreateKeyRequest(
            tenant="a", name="robot", providers=["local", "local"], lifetime_seconds=3600, limits=limits
        )
        made = await admin(master, "CreateKey", request)
        assert made.secret.startswith("sk-by-")
        listed = await admin(master, "ListKeys", ListKeysRequest(tenant="a"))
        assert list(listed.data) == [made.key]
        assert made.key == Key(
            id=made.key.id,
            tenant="a",
            name="robot",
            state=KeyState.KEY_STATE_ACTIVE,
            source=KeySource.KEY_SOURCE_REGISTRY,
            providers=["local"],
            limits=limits,
            created_at=made.key.created_at,
            expires_at=made.key.created_at + 3600,
        )

    async def test_of_the_configuration_is_told_without_its_secret(self, master: Client) -> None:
        (key,) = (await admin(master, "ListKeys", ListKeysRequest(tenant="builds"))).data
        assert (key.id, key.source, key.limits.lines_per_day) == ("config:ci", KeySource.KEY_SOURCE_CONFIGURATION, 5)
        assert "hunter2" not in str(key)
        assert await let_in(master, CONFIGURED.key)

    @pytest.mark.parametrize("request_", [RotateKeyRequest(key_id="config:ci"), RevokeKeyRequest(key_id="config:ci")])
    async def test_of_the_configuration_is_changed_there(self, master: Client, request_: Any) -> None:
        name = type(request_).__name__.removesuffix("Request")
        async with refused(grpc.StatusCode.FAILED_PRECONDITION) as errors:
            await admin(master, name, request_)
        assert (told(errors[0]).reason, told(errors[0]).param) == ("KEY_CONFIGURED", "key_id")

    async def test_is_kept_as_a_digest_alone(self, master: Client, tmp_path: Path) -> None:
        _, secret = await master.new_key("a")
        with closing(sqlite3.connect(f"file:{tmp_path}/data/registry.sqlite3?mode=ro", uri=True)) as connection:
            dumped = "".join(map(str, connection.execute("select * from keys")))
        assert secret[:12] not in dumped
        assert "sk-by" not in dumped

    async def test_lets_in_until_it_expires(self, master: Client, clock: Clock) -> None:
        key_id, secret = await master.new_key("a", lifetime_seconds=60)
        assert await let_in(master, secret)
        clock.ahead = 61
        async with refused(grpc.StatusCode.UNAUTHENTICATED) as errors:
            await master.having(secret).upload(b"x", purpose="user_data", filename="x")
        assert told(errors[0]).message == "This API key has expired."
        (key,) = (await admin(master, "ListKeys", ListKeysRequest(tenant="a"))).data
        assert key.state == KeyState.KEY_STATE_EXPIRED
        async with refused(grpc.StatusCode.FAILED_PRECONDITION) as errors:
            await admin(master, "RotateKey", RotateKeyRequest(key_id=key_id))
        assert told(errors[0]).reason == "KEY_ENDED"

    async def test_that_is_rotated_works_with_both_secrets_for_a_while(self, master: Client, clock: Clock) -> None:
        key_id, old = await master.new_key("a")
        assert await let_in(master, old)
        new = (await admin(master, "RotateKey", RotateKeyRequest(key_id=key_id, grace_seconds=60))).secret
        assert [await let_in(master, one) for one in (old, new)] == [True, True]
        clock.ahead = 61
        assert [await let_in(master, one) for one in (old, new)] == [False, True]
        newest = (await admin(master, "RotateKey", RotateKeyRequest(key_id=key_id))).secret
        assert [await let_in(master, one) for one in (old, new, newest)] == [False, False, True]

    async def test_that_is_revoked_lets_nobody_in_at_once(self, master: Client) -> None:
        key_id, secret = await master.new_key("a")
        assert await let_in(master, secret)
        revoked = [(await admin(master, "RevokeKey", RevokeKeyRequest(key_id=key_id))).key for _ in range(2)]
        assert revoked[0] == revoked[1]
        assert not await let_in(master, secret)

    async def test_that_is_revoked_ends_what_it_watches(self, tmp_path: Path) -> None:
        slow = settings_for(tmp_path, local=LocalSettings(echo=True, echo_delay_ms=60_000))
        async with service(slow) as (_, master):
            key_id, secret = await master.new_key("a")
            team = master.having(secret)
            batch = await team.create((await team.upload(jsonl(chat_lines(1)))).id)
            watch = team.stub.WatchBatch(WatchBatchRequest(batch_id=batch.id), metadata=team.metadata)
            async with refused(grpc.StatusCode.UNAUTHENTICATED), asyncio.timeout(20):
                async for _ in watch:
                    await admin(master, "RevokeKey", RevokeKeyRequest(key_id=key_id))

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tenant": ""}, "tenant"), ({"tenant": ":groups"}, "tenant"), ({"tenant": "x" * 65}, "tenant"),
            ({"name": ""}, "name"), ({"name": "x" * 65}, "name"), ({"name": "a\nb"}, "name"),
            ({"providers": ["moon"]}, "providers"), ({"providers": [""]}, "providers"),
            ({"model_groups": ["none"]}, "model_groups"), ({"expires_at": 1}, "expires_at"),
            ({"lifetime_seconds": 0}, "lifetime_seconds"), ({"lifetime_seconds": 1 << 62}, "lifetime_seconds"),
            ({"limits": KeyLimits(stored_bytes=0)}, "limits.stored_bytes"),
            ({"limits": KeyLimits(lines_per_day=-1)}, "limits.lines_per_day"),
        ],
    )  # fmt: skip
    async def test_that_makes_no_sense_is_not_made(self, master: Client, fields: dict[str, Any], param: str) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT) as errors:
            await admin(master, "CreateKey", CreateKeyRequest(**{"tenant": "a", "name": "b", **fields}))
        assert told(errors[0]).param == param

    @pytest.mark.parametrize(
        ("request_", "code", "param"),
        [
            (RotateKeyRequest(), grpc.StatusCode.INVALID_ARGUMENT, "key_id"),
            (RotateKeyRequest(key_id="key_none"), grpc.StatusCode.NOT_FOUND, "key_id"),
            (RotateKeyRequest(key_id="key_none", grace_seconds=-1), grpc.StatusCode.INVALID_ARGUMENT, "grace_seconds"),
            (RevokeKeyRequest(), grpc.StatusCode.INVALID_ARGUMENT, "key_id"),
            (RevokeKeyRequest(key_id="key_none"), grpc.StatusCode.NOT_FOUND, "key_id"),
            (ListKeysRequest(after="key_none"), grpc.StatusCode.INVALID_ARGUMENT, "after"),
            (ListKeysRequest(after="config:none"), grpc.StatusCode.INVALID_ARGUMENT, "after"),
            (ListKeysRequest(limit=101), grpc.StatusCode.INVALID_ARGUMENT, "limit"),
            (ListKeysRequest(tenant="a b"), grpc.StatusCode.INVALID_ARGUMENT, "tenant"),
        ],
    )
    async def test_that_is_not_there_is_named(
        self, master: Client, request_: Any, code: grpc.StatusCode, param: str
    ) -> None:
        async with refused(code) as errors:
            await admin(master, type(request_).__name__.removesuffix("Request"), request_)
        assert told(errors[0]).param == param


class TestWithoutAMasterKey:
    async def test_anybody_may_do_everything_but_a_key_that_is_shown_counts(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path, master_key=None)) as (_, anybody):
            key_id, secret = await anybody.new_key("a")
            team = anybody.having(secret)
            await team.upload(b"x", purpose="user_data", filename="x")
            listed = await anybody.stub.ListFiles(ListFilesRequest(), metadata=())
            assert not listed.data
            await admin(anybody, "RevokeKey", RevokeKeyRequest(key_id=key_id))
            assert not await let_in(anybody, secret)

    async def test_a_configured_key_is_needed_by_everybody(self) -> None:
        keys = keys_of(None, CONFIGURED)
        for header in (None, "", "Bearer sk-other", "Basic sk-hunter2"):
            with pytest.raises(Unauthenticated):
                await keys.caller(header)
        caller = await keys.caller("Bearer sk-hunter2")
        assert (caller.tenant, caller.master) == ("builds", False)


class TestAPlace:
    """A key that may use one of two deployments of a provider."""

    @pytest.fixture
    async def team(self, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
        async with fake_openai(Quirks(auto=False)) as one, fake_openai(Quirks(auto=False), key="sk-two") as two:
            deployments = (deployment_of("openai", one, name="east"), deployment_of("openai", two, name="west"))
            settings = settings_for(
                tmp_path, local=None, default_provider="openai", deployments=deployments, upstream=QUICK
            )
            async with service(settings) as (_, master):

                async def team(*providers: str) -> Client:
                    return master.having((await master.new_key("a", providers=providers))[1])

                yield team

    async def test_holds_what_other_keys_of_the_tenant_do_not_see(self, team: Callable[..., Any]) -> None:
        east, west, both = await team("east"), await team("west"), await team()
        metadata = UploadFileMetadata(purpose="batch", filename="w.jsonl", provider="west")
        messages = upload_messages(jsonl(chat_lines(1)), metadata)
        file = (await west.stub.UploadFile(messages, metadata=west.metadata)).file
        batch = await west.create(file.id)
        assert batch.deployment == "west"

        async def seen(client: Client) -> list[str]:
            files = await client.stub.ListFiles(ListFilesRequest(), metadata=client.metadata)
            batches = await client.stub.ListBatches(ListBatchesRequest(), metadata=client.metadata)
            return [*(one.id for one in files.data), *(one.id for one in batches.data)]

        assert await seen(west) == await seen(both) == [file.id, batch.id]
        assert await seen(east) == []
        async with refused(grpc.StatusCode.NOT_FOUND):
            await east.get(batch.id)

    async def test_has_the_batches_that_failed_before_they_got_there(self, team: Callable[..., Any]) -> None:
        east = await team("east")
        batch = await east.create("file-none")
        assert [one.message for one in (await east.ended(batch.id)).errors.data] == [
            "Cannot find file file-none, or your key does not have access to it."
        ]

    async def test_is_not_left_by_the_default(self, team: Callable[..., Any]) -> None:
        west = await team("west")
        async with refused(grpc.StatusCode.PERMISSION_DENIED) as errors:
            await west.upload(jsonl(chat_lines(1)))
        assert told(errors[0]).message == "This API key may not use 'openai', the default, but only: west."

    async def test_is_all_that_health_shows(self, team: Callable[..., Any]) -> None:
        health = await admin(await team("west"), "CheckHealth", CheckHealthRequest())
        assert [one.deployment for one in health.healthy_endpoints] == ["west"]

    async def test_keeps_what_an_idempotency_key_made_there(self, tmp_path: Path) -> None:
        database = SqliteDatabase(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
        try:
            once = IdempotencyKey("k", "digest", 1)
            made = await TenantRegistry(database, "a").add_batch(a_batch(1, provider="west"), once)
            narrow = KeyRecord(id="key_1", tenant="a", name="x", providers=("east",))
            for key, good in ((None, True), (structs.replace(narrow, providers=("west",)), True), (narrow, False)):
                again = TenantRegistry(database, "a", key).add_batch(a_batch(2), once)
                if good:
                    assert await again == made
                else:
                    with pytest.raises(AlreadyExists):
                        await again
        finally:
            database.close()
