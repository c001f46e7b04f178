"""A client that goes away takes everything of its request with it."""

import asyncio
import logging
import random
import socket
import struct
from collections import Counter

import pytest
from tests.harness import KEY, chat_lines, jsonl, until

from .conftest import Door, form

TRIES = 50
SEED = 20261122
AT_ONCE = 5
CONTENT = jsonl(chat_lines(10_000))  # about 1.5 MB: several of the blocks that the store writes


def upload(chunked: bool) -> bytes:
    """A whole upload as it is on the wire, with its length beforehand or in chunks."""
    body = form(("purpose", "batch"), ("file", CONTENT, "input.jsonl"))
    length = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    if chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{length}\r\n"
    return f"{head}content-type: multipart/form-data; boundary=b0undary\r\n\r\n".encode() + body


async def leave(door: Door, sent: bytes, *, reset: bool) -> None:
    """Sends a beginning and closes: with a FIN, or with a RST that may overtake what was sent."""
    _, writer = await door.send_raw(sent)
    if reset:
        end: socket.socket = writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


async def running() -> Counter[str]:
    """What runs in this process, which is client, shim and service: how many tasks of which coroutine."""
    return Counter(getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())


async def ended(before: Counter[str]) -> None:
    """Returns when nothing runs that did not run before."""
    await until(running, lambda now: now <= before)


def codes_of(method: str, caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """How the service logged that its calls of a method ended."""
    return Counter(vars(record)["code"] for record in caplog.records if vars(record).get("method") == method)


async def test_an_upload_that_breaks_off_anywhere_leaves_nothing(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "batchyard.service")
    kept = await door.upload(CONTENT)
    before, idle = door.kept(), await running()
    dice = random.Random(SEED)
    wires = [upload(chunked=False), upload(chunked=True)]
    cuts = [(wire, dice.randrange(1, len(wire)), bool(dice.getrandbits(1))) for wire in dice.choices(wires, k=TRIES)]
    for start in range(0, TRIES, AT_ONCE):
        group = cuts[start : start + AT_ONCE]
        await asyncio.gather(*(leave(door, wire[:cut], reset=reset) for wire, cut, reset in group))
    # Answered after them all have been accepted: from here on, what runs besides is theirs.
    assert (await door.rest.get(f"/v1/files/{kept['id']}")).status_code == 200
    await ended(idle)
    assert door.kept() == before
    codes = codes_of("UploadFile", caplog)
    assert codes.pop("OK") == 1
    assert codes.total() > TRIES / 2  # the others ended before the service heard of them
    assert [file["id"] for file in (await door.rest.get("/v1/files")).json()["data"]] == [kept["id"]]


async def test_the_whole_of_such_an_upload_is_kept(door: Door) -> None:
    """The control: it is the missing end that keeps the others from being stored."""
    for chunked in (False, True):
        reader, writer = await door.send_raw(upload(chunked))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert len((await door.rest.get("/v1/files")).json()["data"]) == len(door.kept()) == 2


async def test_a_download_that_nobody_reads_any_more_is_cancelled(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "batchyard.service")
    file = await door.upload(b"x" * (32 << 20), filename="large.bin", purpose="user_data")
    idle = await running()
    head = f"GET /v1/files/{file['id']}/content HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()
    for reset in (False, True):
        reader, writer = await door.send_raw(head)
        await reader.readexactly(100_000)
        assert await running() - idle  # it runs: the shim's half, and the service's
        if reset:
            writer.transport.abort()
        else:
            writer.close()
        await ended(idle)
    assert codes_of("DownloadFile", caplog) == {"CANCELLED": 2}
    assert len((await door.rest.get(f"/v1/files/{file['id']}/content")).content) == file["bytes"]
