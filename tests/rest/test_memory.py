"""A transfer takes a few MiB of memory in each process, whatever the file's size."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.processes import Process, batchyard, configure

from .conftest import FORM, form, rest_client

MIB = 1 << 20
MOST_GROWTH = 16 * MIB
LINE = "x" * 4900


def lines(count: int) -> Iterator[bytes]:
    """The lines of a batch input, of about 5 KB each."""
    for number in range(count):
        message = {"role": "user", "content": f"{number} {LINE}"}
        body = {"model": "test-model", "messages": [message]}
        line = {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line).encode() + b"\n"


async def streamed(count: int) -> AsyncIterator[bytes]:
    yield form(("purpose", "batch"), end=False)
    yield form(("file", b"", "input.jsonl"), end=False)[:-2]
    for line in lines(count):
        yield line
    yield b"\r\n--b0undary--\r\n"


async def transfer(port: int, count: int) -> int:
    """Uploads and downloads a file of `count` lines; its size in bytes."""
    async with rest_client(port) as rest:
        answer = await rest.post("/v1/files", content=streamed(count), headers=FORM)
        assert answer.status_code == 200, answer.text
        file, came = answer.json(), 0
        async with rest.stream("GET", f"/v1/files/{file['id']}/content") as download:
            async for piece in download.aiter_raw():
                came += len(piece)
        assert came == file["bytes"]
        return came


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[tuple[int, Process, Process]]:
    """The port of a shim, the shim, and the service behind it."""
    configure(tmp_path, echo=True)
    with batchyard(tmp_path, "service") as service:
        target = f"127.0.0.1:{await service.port()}"
        with batchyard(tmp_path, "shim", "--service", target) as shim:
            yield await shim.port("REST on"), shim, service


async def test_a_transfer_of_200_mb_takes_at_most_16_mib_in_each_process(
    processes: tuple[int, Process, Process],
) -> None:
    port, shim, service = processes
    await transfer(port, 1000)
    before = {one: one.peak_bytes() for one in (shim, service)}
    assert await transfer(port, 40_000) > 200_000_000
    growth = {one.log.stem: (one.peak_bytes() - peak) / MIB for one, peak in before.items()}
    assert max(growth.values()) <= MOST_GROWTH / MIB, growth
