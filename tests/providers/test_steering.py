"""A caller can't steer where our own calls go: not by ids, names, members and headers. A provider can't either."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from tests.rest.conftest import BEARER
from tests.upstream.exchange import Seen
from tests.upstream.faults import Answer

from batchyard.v1 import CancelBatchRequest, DeleteFileRequest, DownloadFileRequest, GetBatchRequest, GetFileRequest

from .scene import CONTENT, CREATE, GET, GET_FILE, INPUT, UPLOAD, Scene, scene

COLLECTIONS = {"/v1/files", "/v1/batches"}
TRAP = "TRAP"  # stands for the address of a server that nobody may call


@dataclass
class Trap:
    """A server that nobody may call."""

    address: str
    calls: int = 0

    def laid(self, value: Any) -> Any:
        """The value with its address in place."""
        if isinstance(value, dict):
            return {name: self.laid(inner) for name, inner in value.items()}
        return value.replace(TRAP, self.address)


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    async def caught(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.calls += 1
        writer.close()

    async with await asyncio.start_server(caught, "127.0.0.1", 0) as server:
        found = Trap(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield found
        assert found.calls == 0


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[Scene, list[Seen]]]:
    """A front door, and what its deployment is asked in the context: only there, and at its collections alone."""
    async with scene(folder, openai_poll_seconds=60) as found:
        before, asked = len(found.fake.requests), list[Seen]()
        yield found, asked
        asked += found.fake.requests[before:]
        host = found.fake.api_base.split("/")[2]
        assert {seen.headers["host"] for seen in asked} <= {host}
        assert {seen.path for seen in asked} <= COLLECTIONS
        assert {name for seen in asked for name in seen.query} <= {"limit", "after"}


IDS = [
    "../batches", "..", "%2e%2e", "%2e%2e%2fbatches", "..;/x", "file-a?limit=1", "file-a#b", "file-a/../../x", "//x",
    f"http://{TRAP}/x", f"//{TRAP}/x", f"@{TRAP}/x", f"x@{TRAP}", "file-a\r\nhost: x", "file-a\n", "file a", "a\\..\\x",
]  # fmt: skip


class TestAnId:
    async def test_is_never_a_way_to_another_url(self, tmp_path: Path, trap: Trap) -> None:
        async with watched(tmp_path) as (found, _):
            names = [trap.laid(name) for name in IDS]
            for name in {spelled for one in names for spelled in (quote(one, safe=""), quote(one, safe="%;@"))}:
                for method, path in (
                    ("GET", f"files/{name}"), ("GET", f"files/{name}/content"), ("DELETE", f"files/{name}"),
                    ("GET", f"batches/{name}"), ("POST", f"batches/{name}/cancel"),
                ):  # fmt: skip
                    for prefix in ("/v1", "/openai/v1"):
                        answer = await found.door.rest.request(method, f"{prefix}/{path}")
                        assert answer.status_code in {400, 404, 405}, (method, name, answer.text)

    async def test_is_none_over_grpc_either(self, tmp_path: Path, trap: Trap) -> None:
        async with watched(tmp_path) as (found, _):
            stub, metadata = found.door.grpc.stub, found.door.grpc.metadata
            calls: list[tuple[Any, Any]] = [
                (stub.GetFile, GetFileRequest),
                (stub.DeleteFile, DeleteFileRequest),
                (stub.GetBatch, GetBatchRequest),
                (stub.CancelBatch, CancelBatchRequest),
                (lambda *given, **more: stub.DownloadFile(*given, **more).read(), DownloadFileRequest),
            ]
            for name in IDS:
                for call, request in calls:
                    field = next(field for field in request.DESCRIPTOR.fields_by_name if field.endswith("_id"))
                    for provider in ("", "openai"):
                        with pytest.raises(grpc.aio.AioRpcError):
                            await call(request(**{field: trap.laid(name), "provider": provider}), metadata=metadata)

    async def test_of_an_input_makes_no_batch(self, tmp_path: Path, trap: Trap) -> None:
        async with watched(tmp_path) as (found, asked):
            for name in IDS:
                answer = await found.post(trap.laid(name))
                assert answer.status_code == 400 or (await found.door.ended(answer.json()["id"]))["status"] == "failed"
        assert not asked


NAMES = [f"http://{TRAP}", f"openai@{TRAP}", TRAP, "../azure", "openai/../x", "openai?x", "openai#", "openai\\"]


class TestAProvidersName:
    async def test_is_one_that_is_configured(self, tmp_path: Path, trap: Trap) -> None:
        async with watched(tmp_path) as (found, asked):
            rest = found.door.rest
            for name in map(trap.laid, NAMES):
                form, file = {"purpose": "batch", "provider": name}, {"file": ("a.jsonl", INPUT)}
                for answer in (
                    await rest.get("/v1/files", params={"provider": name}),
                    await rest.get("/v1/batches", params={"custom_llm_provider": name}),
                    await rest.get("/v1/batches", headers={"custom-llm-provider": name}),
                    await rest.get(f"/{quote(name, safe='')}/v1/batches"),
                    await rest.post("/v1/files", data=form, files=file),
                    await rest.post("/v1/batches", json={"custom_llm_provider": name, "input_file_id": "file-a"}),
                ):
                    assert answer.status_code in {400, 404}, (name, answer.text)
        assert not asked


class TestAHeader:
    async def test_of_a_proxy_is_not_believed(self, tmp_path: Path, trap: Trap) -> None:
        forged = {
            "host": trap.address, "x-forwarded-host": trap.address, "x-forwarded-proto": "ftp",
            "forwarded": f"host={trap.address};proto=ftp", "x-original-url": "/admin", "x-rewrite-url": "/admin",
            "openai-organization": "other", "openai-base-url": f"http://{trap.address}",
        }  # fmt: skip
        async with watched(tmp_path) as (found, asked):
            found.door.rest.headers.update(forged)
            await found.door.create(await found.input())
        assert [seen.path for seen in asked if seen.method == "POST"] == ["/v1/files", "/v1/batches"]
        assert forged.keys() & {name for seen in asked for name in seen.headers} == {"host"}

    async def test_is_what_a_target_with_a_host_is_too(self, tmp_path: Path, trap: Trap) -> None:
        async with watched(tmp_path) as (found, asked):
            bearer = f"authorization: {BEARER['authorization']}"
            for target in (f"http://{trap.address}/v1/files/file-a", f"//{trap.address}/v1/files", "/v1/files/../../x"):
                head = f"GET {target} HTTP/1.1\r\nhost: {trap.address}\r\n{bearer}\r\nconnection: close\r\n\r\n"
                reader, writer = await found.door.send_raw(head.encode())
                assert (await reader.read()).split()[1] in {b"400", b"404"}
                writer.close()
        assert not asked


MEMBERS: dict[str, Any] = {
    "api_base": f"http://{TRAP}", "base_url": f"http://{TRAP}", "url": f"http://{TRAP}", "deployment": TRAP,
    "input_blob": f"http://{TRAP}/a", "output_folder": {"url": f"http://{TRAP}"}, "api_key": "sk-x", "proxy": TRAP,
    "extra_headers": {"host": TRAP}, "extra_body": {"api_base": f"http://{TRAP}"}, "webhook": {"at": f"http://{TRAP}"},
    "litellm_params": {"api_base": f"http://{TRAP}"}, "metadata": {"url": f"http://{TRAP}/", "crlf": "a\r\nhost: x"},
    "endpoint": f"http://{TRAP}/v1/chat/completions",
}  # fmt: skip


class TestAMember:
    async def test_of_a_creation_is_never_a_url(self, tmp_path: Path, trap: Trap) -> None:
        async with watched(tmp_path) as (found, asked):
            file_id = await found.input()
            statuses = {
                name: (await found.post(file_id, **{name: trap.laid(value)})).status_code
                for name, value in MEMBERS.items()
            }
            assert set(statuses.values()) <= {200, 400}, statuses
        creations = [seen for seen in asked if seen.method == "POST"][1:]
        assert {seen.path for seen in creations} == {"/v1/batches"}
        assert not {"api_base", "base_url", "url", "input_blob", "output_folder", "api_key"} & {
            name for seen in creations for name in seen.body
        }

    async def test_of_a_form_is_never_a_url(self, tmp_path: Path, trap: Trap) -> None:
        async with watched(tmp_path) as (found, asked):
            for name in ("api_base", "base_url", "url", "endpoint", "api_key", "target_model_names", "proxy"):
                form, file = {"purpose": "batch", name: f"http://{trap.address}"}, {"file": ("../../a\r\nx: y", INPUT)}
                answer = await found.door.rest.post("/v1/files", data=form, files=file)
                assert answer.status_code in {200, 400}, (name, answer.text)
        assert {seen.path for seen in asked if seen.method == "POST"} <= {"/v1/files"}
        assert trap.address not in str([seen.parts for seen in asked])


class TestAProvidersAnswer:
    @pytest.mark.parametrize("status", [302, 307])
    async def test_that_redirects_is_not_followed(self, tmp_path: Path, trap: Trap, status: int) -> None:
        redirect = Answer(status, {}, {"location": f"http://{trap.address}/v1/elsewhere"})
        async with scene(tmp_path, openai_poll_seconds=60, max_attempts=1) as found:
            file_id, rest = await found.input(), found.door.rest
            batch_id = (await found.post(file_id)).json()["id"]
            for where in (UPLOAD, CREATE, CONTENT, GET_FILE, GET):
                found.fake.fault(redirect, where=where)
            form = {"purpose": "batch"}
            answers = [
                await rest.post("/v1/files", data=form, files={"file": ("a.jsonl", INPUT)}),
                await found.post(file_id),
                await rest.get(f"/v1/files/{file_id}/content"),
                await rest.get("/openai/v1/files/file-elsewhere"),
                await rest.get("/openai/v1/batches/batch_elsewhere"),
            ]
            assert all(answer.status_code >= 400 for answer in answers), [answer.status_code for answer in answers]
            assert trap.address not in "".join(f"{answer.headers}{answer.text}" for answer in answers)
            assert (await rest.get(f"/v1/batches/{batch_id}")).status_code == 200


class TestTheEnvironment:
    async def test_has_no_proxy_for_any_call(self, tmp_path: Path, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://{trap.address}")
            monkeypatch.setenv(name.upper(), f"http://{trap.address}")
        for name in ("NO_PROXY", "no_proxy", "NO_GRPC_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        async with watched(tmp_path) as (found, asked):
            await found.input()
        assert [seen.path for seen in asked if seen.method == "POST"] == ["/v1/files"]
