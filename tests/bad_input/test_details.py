"""Errors about values of any size. A test's name is a row of docs/bad-inputs.md, its docstring the answer."""

from pathlib import Path
from typing import cast

import grpc
import pytest
from grpc import aio
from tests.bad_input.calls import both, get
from tests.bad_input.files import LINE, about, data
from tests.bad_input.model import Http, Rpc, upload
from tests.bad_input.proving import Bench, bench
from tests.rest.conftest import refusal
from tests.statuses import told

from batchyard.v1 import GetFileRequest, ListFilesRequest

LONG = "ab%é" * 60_000
MOST_BYTES = 7500
CALLS = 60
QUOTED: list[Http | Rpc] = [
    *both(endpoint=LONG), upload(about(purpose=LONG), data(LINE)), Rpc("GetFile", [GetFileRequest(file_id=LONG)]),
    Rpc("ListFiles", [ListFilesRequest(after=LONG)]), get(f"/v1/files?after={LONG[:10_000]}"),
]  # fmt: skip
MEASURED: list[Http | Rpc] = [
    *both(metadata={LONG: "v"}), upload(about(filename=LONG), data(LINE)),
]  # fmt: skip


async def test_an_error_about_a_value_of_any_size(tmp_path: Path) -> None:
    """It arrives, always: what it quotes is cut in the middle, where `[...]` says so, below 7.5 KB in all."""
    async with bench(tmp_path) as door:
        for send in (*QUOTED, *MEASURED):
            for _ in range(CALLS // 10 if isinstance(send, Http) else CALLS):
                assert ("[...]" in await told_by(door, send)) == (send in QUOTED)


async def told_by(door: Bench, send: Http | Rpc) -> str:
    """The message of a refusal, which must have all its details."""
    if isinstance(send, Http):
        return str(refusal(await door.ask(send), 400)["message"])
    with pytest.raises(grpc.RpcError) as raised:
        await door.call(send)
    error = told(cast(aio.AioRpcError, raised.value))
    assert error.size < MOST_BYTES
    return error.message
