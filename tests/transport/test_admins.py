"""Whoever has the certificate of an administrator does without a key what the master key does, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from tests.authority import Authority, Identity
from tests.harness import refused

from batchyard.admin.v1 import AdminServiceStub, CheckHealthRequest, CreateKeyRequest, ListKeysRequest
from batchyard.v1 import BatchServiceStub, ListBatchesRequest

from .conftest import served, settings_with

WRONG = (("authorization", "Bearer sk-wrong"),)


def channel(target: str, authority: Authority, client: Identity) -> grpc.aio.Channel:
    shown = grpc.ssl_channel_credentials(authority.pem, client.key.read_bytes(), client.cert.read_bytes())
    return grpc.aio.secure_channel(target, shown, options=(("grpc.use_local_subchannel_pool", 1),))


@pytest.mark.parametrize(("name", "may"), [("ops", True), ("localhost", False), ("client", False)])
async def test_a_name_in_a_certificate_stands_for_the_master_key(
    tmp_path: Path, authority: Authority, server_files: Identity, name: str, *, may: bool
) -> None:
    settings = settings_with(tmp_path, server_files, authority.ca)
    audit_log = tmp_path / "audit.jsonl"
    settings = replace(settings, tls=replace(settings.tls, admin_names=("ops", "unknown")), audit_log=audit_log)
    async with (
        served(settings) as running,
        channel(running.server.address, authority, authority.identity(name)) as shown,
    ):
        admin, batches = AdminServiceStub(shown), BatchServiceStub(shown)
        if may:
            made = await admin.CreateKey(CreateKeyRequest(tenant="team", name="first"))
            assert [key.id for key in (await admin.ListKeys(ListKeysRequest())).data] == [made.key.id]
            assert await admin.CheckHealth(CheckHealthRequest())
        else:
            async with refused(grpc.StatusCode.UNAUTHENTICATED):
                await admin.ListKeys(ListKeysRequest())
        for call in (
            admin.ListKeys(ListKeysRequest(), metadata=WRONG),
            batches.ListBatches(ListBatchesRequest()),
            batches.ListBatches(ListBatchesRequest(), metadata=WRONG),
        ):
            async with refused(grpc.StatusCode.UNAUTHENTICATED):
                await call
    keys = [json.loads(line)["key"] for line in audit_log.read_text().splitlines()]
    assert keys == [*(["certificate ops"] * 3 if may else ["none"]), "none", "none", "none"]


async def test_the_name_of_a_host_counts_too(tmp_path: Path, authority: Authority, server_files: Identity) -> None:
    settings = settings_with(tmp_path, server_files, authority.ca)
    settings = replace(settings, tls=replace(settings.tls, admin_names=("localhost",)))
    async with (
        served(settings) as running,
        channel(running.server.address, authority, authority.identity("client")) as shown,
    ):
        assert not (await AdminServiceStub(shown).ListKeys(ListKeysRequest())).data
