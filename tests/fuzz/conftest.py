from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from hypothesis import settings
from tests.harness import KEY, Client, chat_lines, jsonl, plain_client, service, settings_for, until
from tests.kills import leftovers
from tests.leaks import nothing_left

from batchyard.common.calls import Caller
from batchyard.common.http.listeners import listening
from batchyard.shim.app import create_app
from batchyard.shim.caller import connect
from batchyard.v1 import ListFilesRequest

SOON = 10.0  # seconds: hypothesis tries a failing example again and again

settings.register_profile("torture")  # see `inputs.examples`


@dataclass
class Door:
    """A service and the shim in front of it, both in this process, with one connection to each."""

    grpc: Client
    caller: Caller
    rest: httpx.AsyncClient
    port: int
    folder: Path
    batch_id: str = ""

    async def known(self) -> tuple[str, str]:
        """A file, and a batch that has ended; made at the first call, and the file again once it was deleted."""
        files = await self.listed("batch")
        file_id = files[0] if files else (await self.grpc.upload(jsonl(chat_lines(1)))).id
        if not self.batch_id:
            self.batch_id = (await self.grpc.ended((await self.grpc.create(file_id)).id)).id
        return file_id, self.batch_id

    async def kept(self) -> list[str]:
        """Everything that lies in the store."""
        return sorted(path.name for path in (self.folder / "data/store").rglob("*") if path.is_file())

    async def listed(self, purpose: str = "") -> list[str]:
        """The ids of the caller's files."""
        request = ListFilesRequest(purpose=purpose)
        return [file.id for file in (await self.grpc.stub.ListFiles(request, metadata=self.grpc.metadata)).data]

    async def emptied(self) -> None:
        """Deletes what the caller has, and waits until nothing is stored."""
        for file_id in await self.listed():
            await self.rest.delete(f"/v1/files/{file_id}")
        await until(self.kept, lambda names: not names, patience=SOON)

    async def leftovers(self) -> list[str]:
        """Files that no row refers to."""
        return leftovers(self.folder)

    async def settled(self) -> None:
        """One call of each kind over both connections, and nothing kept of them."""
        file = await self.grpc.upload(jsonl(chat_lines(2)))
        batch = await self.grpc.ended((await self.grpc.create(file.id)).id)
        for file_id in (file.id, batch.output_file_id):
            assert (await self.rest.delete(f"/v1/files/{file_id}")).status_code == 200


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A front door that must hold nothing more after the test than before it."""
    settings = settings_for(tmp_path)
    async with (
        service(settings) as (server, grpc),
        connect(f"127.0.0.1:{server.grpc_port}") as caller,
        listening(create_app(caller), "127.0.0.1", 0, max_requests=1000) as listener,
        plain_client(
            base_url=f"http://127.0.0.1:{listener.port}",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=30,
            limits=httpx.Limits(max_connections=1),
        ) as rest,
    ):
        opened = Door(grpc, caller, rest, listener.port, tmp_path)
        async with nothing_left(opened.settled):
            yield opened
            await until(opened.leftovers, lambda names: not names)
