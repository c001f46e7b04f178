"""What the audit log says of each call, and what it never says."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from tests.harness import KEY, Client, chat_lines, jsonl, refused, service, settings_for, until
from tests.scrapes import scrape

from batchyard.admin.v1 import (
    AdminServiceStub,
    CreateKeyRequest,
    ListKeysRequest,
    RevokeKeyRequest,
    RotateKeyRequest,
    admin_service_pb2,
)
from batchyard.common.metrics import Metrics
from batchyard.service.audit.auditor import CLIENT, LOOKS, SHIM
from batchyard.service.config.settings import Key, Quotas
from batchyard.service.server import StartupError, serving
from batchyard.v1 import CancelBatchRequest, DeleteFileRequest, GetFileRequest, ListBatchesRequest, batch_service_pb2

SECRET = "shim-secret"
METHODS = [
    method
    for module, name in ((batch_service_pb2, "BatchService"), (admin_service_pb2, "AdminService"))
    for method in module.DESCRIPTOR.services_by_name[name].methods
]
TEAM = Key(name="ci", key="sk-ci", tenant="team-a", limits=Quotas(requests_per_minute=5))


class Audited:
    """A service that keeps an audit log, and clients of it."""

    def __init__(self, channel: grpc.aio.Channel, path: Path) -> None:
        self.channel = channel
        self.client = Client(channel)
        self.path = path

    async def records(self, least: int) -> list[dict[str, Any]]:
        """All that there are, once there are so many."""

        async def look() -> list[dict[str, Any]]:
            return [json.loads(line) for line in self.path.read_text().splitlines()]

        return await until(look, lambda found: len(found) >= least)

    async def ask(self, method: MethodDescriptor) -> bool:
        """Calls a method with an empty request; whether it ended well."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        empty, metadata = GetMessageClass(method.input_type)().SerializeToString(), self.client.metadata
        try:
            match method.client_streaming, method.server_streaming:
                case True, _:
                    call: Any = self.channel.stream_unary(path)
                    await call(iter([empty]), metadata=metadata)
                case _, True:
                    stream: Any = self.channel.unary_stream(path)
                    assert [message async for message in stream(empty, metadata=metadata)]
                case _:
                    unary: Any = self.channel.unary_unary(path)
                    await unary(empty, metadata=metadata)
        except grpc.aio.AioRpcError:
            return False
        return True


@asynccontextmanager
async def audited(
    folder: Path, metrics: Metrics | None = None, steady: Callable[[], float] | None = None, **changes: Any
) -> AsyncIterator[Audited]:
    path = folder / "audit.jsonl"
    settings = settings_for(folder, **{"audit_log": path, "keys": (TEAM,), "shim_secret": SECRET} | changes)
    async with (
        service(settings, metrics, steady=steady) as (server, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        yield Audited(channel, path)


@pytest.mark.parametrize("reads", [True, False])
async def test_every_call_of_the_contract_has_a_record(tmp_path: Path, reads: bool) -> None:
    async with audited(tmp_path, audit_reads=reads) as service:
        well = {method.name for method in METHODS if await service.ask(method)}
        expected = [method.name for method in METHODS if reads or method.name not in LOOKS & well]
        records = await service.records(len(expected))
    assert [record["method"] for record in records] == expected
    assert {"ListBatches", "ListKeys"} <= well
    assert {"GetBatch", "ListKeys"} <= LOOKS <= {method.name for method in METHODS}
    assert not {"DownloadFile", "UploadFile", "CreateBatch", "CancelBatch", "DeleteFile", "CreateKey"} & LOOKS


async def test_a_record_says_who_did_what_to_which_id_and_with_what_outcome(tmp_path: Path) -> None:
    began = datetime.now(UTC).isoformat()
    async with audited(tmp_path) as service:
        client = Client(service.channel, "sk-ci")
        file = await client.upload(jsonl(chat_lines(1)))
        batch = await client.create(file.id, metadata={"note": "hunter2"})
        with pytest.raises(grpc.aio.AioRpcError):
            await client.stub.CancelBatch(CancelBatchRequest(batch_id="batch_none"), metadata=client.metadata)
        uploaded, created, cancelled = await service.records(3)
    assert set(uploaded) == {
        "time", "request_id", "method", "tenant", "key", "key_name", "peer", "files", "providers", "code", "reason",
        "duration_ms",
    }  # fmt: skip
    assert began < uploaded["time"].replace("Z", "+00:00") <= datetime.now(UTC).isoformat()
    assert uploaded["request_id"].startswith("req_")
    assert [uploaded[name] for name in ("tenant", "key", "key_name")] == ["team-a", "config:ci", "ci"]
    assert [uploaded[name] for name in ("method", "code", "reason")] == ["UploadFile", "OK", None]
    assert (uploaded["files"], uploaded["providers"]) == ([file.id], ["local"])
    assert (created["files"], created["batches"]) == ([file.id], [batch.id])
    assert (cancelled["batches"], cancelled["code"], cancelled["reason"]) == (["batch_none"], "NOT_FOUND", "NOT_FOUND")


async def test_what_is_refused_has_a_record_too(tmp_path: Path) -> None:
    async with audited(tmp_path) as service:
        nobody, team = Client(service.channel, "sk-wrong"), Client(service.channel, "sk-ci")
        async with refused(grpc.StatusCode.UNAUTHENTICATED):
            await nobody.get("batch_1")
        admin = AdminServiceStub(service.channel)
        async with refused(grpc.StatusCode.PERMISSION_DENIED):
            await admin.RevokeKey(RevokeKeyRequest(key_id="key_1"), metadata=team.metadata)
        for _ in range(4):
            async with refused(grpc.StatusCode.NOT_FOUND):
                await team.get("batch_1")
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
            await team.get("batch_1")
        records = await service.records(7)
    unknown, denied, busy = records[0], records[1], records[-1]
    assert [unknown[name] for name in ("tenant", "key", "code")] == [None, "none", "UNAUTHENTICATED"]
    assert not any("left_out" in record for record in records)
    assert [denied[name] for name in ("key", "keys", "code")] == ["config:ci", ["key_1"], "PERMISSION_DENIED"]
    assert [busy[name] for name in ("key", "code", "reason")] == ["config:ci", "RESOURCE_EXHAUSTED", "BUSY"]


async def test_keys_are_named_by_their_ids(tmp_path: Path) -> None:
    async with audited(tmp_path) as service:
        admin = AdminServiceStub(service.channel)
        metadata = service.client.metadata
        made = await admin.CreateKey(CreateKeyRequest(tenant="team-b", name="night"), metadata=metadata)
        async with refused(grpc.StatusCode.NOT_FOUND):
            await Client(service.channel, made.secret).get("batch_1")
        created, used = await service.records(2)
    assert [created[name] for name in ("key", "keys", "for_tenants")] == ["master", [made.key.id], ["team-b"]]
    assert [used[name] for name in ("tenant", "key", "key_name")] == ["team-b", made.key.id, "night"]
    assert made.secret not in service.path.read_text()


async def test_reads_that_are_refused_have_a_record_even_without_reads(tmp_path: Path) -> None:
    async with audited(tmp_path, audit_reads=False) as service:
        team = Client(service.channel, "sk-ci")
        await team.stub.ListBatches(ListBatchesRequest(), metadata=team.metadata)
        async with refused(grpc.StatusCode.UNAUTHENTICATED):
            await Client(service.channel, "sk-wrong").get("batch_1")
        async with refused(grpc.StatusCode.PERMISSION_DENIED):
            await AdminServiceStub(service.channel).ListKeys(ListKeysRequest(), metadata=team.metadata)
        records = await service.records(2)
    assert [record["code"] for record in records] == ["UNAUTHENTICATED", "PERMISSION_DENIED"]


async def test_strangers_get_so_many_records_a_minute_and_the_next_one_counts_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "batchyard.service")
    now = [1000.0]

    async def reported() -> int:
        return [vars(record).get("method") for record in caplog.records].count("GetBatch")

    async with audited(tmp_path, steady=lambda: now[0]) as service:
        admin, metadata = AdminServiceStub(service.channel), service.client.metadata
        made = await admin.CreateKey(CreateKeyRequest(tenant="team-b", name="night"), metadata=metadata)
        await admin.RevokeKey(RevokeKeyRequest(key_id=made.key.id), metadata=metadata)

        async def strangers(calls: int, key: str = "sk-wrong") -> None:
            for _ in range(calls):
                async with refused(grpc.StatusCode.UNAUTHENTICATED):
                    await Client(service.channel, key).get("batch_1")
            done.append(calls)
            await until(reported, lambda count: count == sum(done))  # the record follows the answer

        done: list[int] = []
        await strangers(67)
        await strangers(1, made.secret)
        now[0] += 59
        await strangers(2)
        now[0] += 1
        await strangers(2)
        records = await service.records(2 + 60 + 1 + 2)
    assert [(number, record["left_out"]) for number, record in enumerate(records) if "left_out" in record] == [
        (62, 7),
        (63, 2),
    ]
    assert [record["key"] for record in records[62:]] == [made.key.id, "none", "none"]


async def test_a_key_that_has_ended_is_named_where_its_secret_was_shown(tmp_path: Path) -> None:
    expired = Key(name="old", key="sk-old", tenant="team-a", expires_at=1)
    async with audited(tmp_path, keys=(TEAM, expired)) as service:
        admin, metadata = AdminServiceStub(service.channel), service.client.metadata
        made = await admin.CreateKey(CreateKeyRequest(tenant="team-b", name="night"), metadata=metadata)
        key_id = made.key.id
        new = (await admin.RotateKey(RotateKeyRequest(key_id=key_id), metadata=metadata)).secret
        guess = new[:-1] + ("A" if new[-1] != "A" else "B")
        for secret in (made.secret, guess, "sk-old"):
            async with refused(grpc.StatusCode.UNAUTHENTICATED):
                await Client(service.channel, secret).get("batch_1")
        await admin.RevokeKey(RevokeKeyRequest(key_id=key_id), metadata=metadata)
        for secret in (new, guess):
            async with refused(grpc.StatusCode.UNAUTHENTICATED) as errors:
                await Client(service.channel, secret).get("batch_1")
            assert key_id not in str(errors[0])
        records = await service.records(8)
    named = [record["key"] for record in records if record["code"] == "UNAUTHENTICATED"]
    assert named == [key_id, "none", "config:old", key_id, "none"]
    assert {record["tenant"] for record in records if record["code"] == "UNAUTHENTICATED"} == {None}


async def test_where_no_key_is_needed_the_caller_is_anyone(tmp_path: Path) -> None:
    async with audited(tmp_path, keys=(), master_key=None) as service:
        await AdminServiceStub(service.channel).ListKeys(ListKeysRequest())
        (record,) = await service.records(1)
    assert [record[name] for name in ("tenant", "key")] == ["default", "anyone"]


async def test_nothing_that_callers_write_is_there_but_ids(tmp_path: Path) -> None:
    hostile = ["hunter2 hunter2", 'a"}\n{"method": "hunter2', "hunter2/../hunter2", "hunter2" * 100, "sk-hunter2"]
    async with audited(tmp_path) as service:
        client = service.client
        file = await client.upload(b'{"hunter2": 1}\n' + jsonl(chat_lines(1)), filename="hunter2.jsonl")
        await client.create(file.id, metadata={"hunter2": "hunter2"}, idempotency_key="hunter2", model="hunter2")
        await client.read(file.id)
        for text in hostile:
            async with refused(grpc.StatusCode.NOT_FOUND):
                await client.stub.GetFile(GetFileRequest(file_id=text), metadata=client.metadata)
            async with refused(grpc.StatusCode.INVALID_ARGUMENT):
                await client.stub.GetFile(GetFileRequest(provider=text), metadata=client.metadata)
        async with refused(grpc.StatusCode.UNAUTHENTICATED):
            await Client(service.channel, "sk-hunter2").get("batch_1")
        records = await service.records(3 + 2 * len(hostile) + 1)
    text = service.path.read_text()
    assert "hunter2" not in text
    assert KEY not in text
    assert {tuple(record.get("files", ())) for record in records[3:-1:2]} == {("(not an id)",)}


@pytest.mark.parametrize(
    ("shown", "trusted"),
    [((), False), (((SHIM, "wrong"),), False), (((SHIM, ""),), False), (((SHIM, SECRET),), True)],
)
async def test_a_caller_is_where_its_peer_is_unless_our_shim_says(
    tmp_path: Path, shown: tuple[tuple[str, str], ...], trusted: bool
) -> None:
    async with audited(tmp_path) as service:
        metadata = (*service.client.metadata, (CLIENT, "203.0.113.9"), *shown)
        async with refused(grpc.StatusCode.NOT_FOUND):
            await service.client.stub.DeleteFile(DeleteFileRequest(file_id="file-1"), metadata=metadata)
        (record,) = await service.records(1)
    if trusted:
        assert (record["peer"], record["via"]) == ("203.0.113.9", "shim")
    else:
        assert record["peer"].startswith("ipv4:127.0.0.1:")
        assert "via" not in record


async def test_without_a_secret_nobody_is_the_shim(tmp_path: Path) -> None:
    async with audited(tmp_path, shim_secret=None) as service:
        metadata = (*service.client.metadata, (CLIENT, "203.0.113.9"), (SHIM, ""))
        async with refused(grpc.StatusCode.NOT_FOUND):
            await service.client.stub.DeleteFile(DeleteFileRequest(file_id="file-1"), metadata=metadata)
        (record,) = await service.records(1)
    assert record["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize("reads", [True, False])
async def test_while_it_can_not_be_written_nothing_is_done_that_it_should_have(tmp_path: Path, reads: bool) -> None:
    metrics = Metrics()
    async with audited(tmp_path, metrics, audit_reads=reads) as service:
        client, path = service.client, service.path
        file = await client.upload(jsonl(chat_lines(1)))
        await service.records(1)
        path.rename(tmp_path / "old")
        path.mkdir()
        await client.create(file.id)  # which finds out
        await until(lambda: scrape(metrics), lambda seen: seen("batchyard_audit_failing") == 1)
        async with refused(grpc.StatusCode.UNAVAILABLE) as errors:
            await client.create(file.id)
        assert "audit log" in (errors[0].details() or "")
        async with refused(grpc.StatusCode.UNAVAILABLE if reads else grpc.StatusCode.NOT_FOUND):
            await client.get("batch_none")
        path.rmdir()
        await until(lambda: scrape(metrics), lambda seen: seen("batchyard_audit_failing") == 0)
        await client.create(file.id)
        records = await service.records(2)
    assert [record["method"] for record in records] == ["CreateBatch", "CreateBatch"]
    assert [record.get("left_out") for record in records] == [None, None if reads else 1]


async def test_a_key_can_be_ended_while_it_can_not_be_written(tmp_path: Path) -> None:
    metrics = Metrics()
    async with audited(tmp_path, metrics) as service:
        admin, metadata, path = AdminServiceStub(service.channel), service.client.metadata, service.path
        made = await admin.CreateKey(CreateKeyRequest(tenant="team-b", name="night"), metadata=metadata)
        await service.records(1)
        path.rename(tmp_path / "old")
        path.mkdir()
        await admin.ListKeys(ListKeysRequest(), metadata=metadata)  # which finds out
        await until(lambda: scrape(metrics), lambda seen: seen("batchyard_audit_failing") == 1)
        request = RevokeKeyRequest(key_id=made.key.id)
        for code, client in (
            (grpc.StatusCode.UNAUTHENTICATED, Client(service.channel, "sk-wrong")),
            (grpc.StatusCode.PERMISSION_DENIED, Client(service.channel, made.secret)),
        ):
            async with refused(code):
                await admin.RevokeKey(request, metadata=client.metadata)
        assert (await admin.RevokeKey(request, metadata=metadata)).key.revoked_at
        path.rmdir()
        await until(lambda: scrape(metrics), lambda seen: seen("batchyard_audit_failing") == 0)
        listed, revoked = await service.records(2)
    assert listed["method"] == "ListKeys"
    assert [revoked[name] for name in ("method", "key", "keys", "left_out")] == [
        "RevokeKey", "master", [made.key.id], 2,
    ]  # fmt: skip


async def test_a_service_does_not_start_without_the_log_that_it_should_keep(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, audit_log=tmp_path / "none" / "audit.jsonl")
    with pytest.raises(StartupError, match=r"^The audit log .* can't be opened: No such file or directory\.$"):
        async with serving(settings):
            pass
