"""A provider whose answers are no HTTP from some byte on, or wrapped in ways that nobody asked for."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.deployments import QUICK
from tests.rest.conftest import Door, opened, refusal
from tests.speaking import request, speaking
from tests.upstream.faults import Answer

from batchyard.service.config.settings import Deployment

from .scene import CONTENT, INPUT, scene

FILE = {"id": "file-1", "object": "file", "bytes": 5, "filename": "in.jsonl", "purpose": "batch", "created_at": 1}
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
PATIENCE = 20.0
LONG = 3600.0  # nothing here may wait for so long
BARE = zlib.compressobj(wbits=-zlib.MAX_WBITS)
PACKED: dict[str, tuple[str, bytes]] = {
    "gzip": ("gzip", gzip.compress(INPUT)),
    "gzip of two members": ("x-gzip", gzip.compress(INPUT[:9]) + gzip.compress(INPUT[9:])),
    "gzip with more behind it": ("gzip", gzip.compress(INPUT) + b"\0" * 9),
    "gzip twice": ("gzip, gzip", gzip.compress(gzip.compress(INPUT))),
    "deflate": ("deflate", zlib.compress(INPUT)),
    "bare deflate": ("deflate", BARE.compress(INPUT) + BARE.flush()),
    "plain, said to be gzip": ("gzip", INPUT),
    "plain, said to be deflate": ("deflate", INPUT),
    "identity": ("Identity", INPUT),
}
UNREADABLE: dict[str, tuple[str, bytes]] = {
    "brotli": ("br", b"\x0b\x02\x80{}\x03"),
    "gzip without its end": ("gzip", gzip.compress(INPUT)[:-9]),
    "broken gzip": ("gzip", gzip.compress(INPUT)[:20] + b"\xff" * 20),
}


@asynccontextmanager
async def before(folder: Path, content: list[bytes]) -> AsyncIterator[Door]:
    """A front door before a provider that has one file; a request for its content is answered by these packets."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await request(reader)
            if b"/content " in head:
                for piece in content:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                await reader.read()
                return
            body = json.dumps(FILE).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with speaking(talk) as api_base:
        there = Deployment(name="openai", provider="openai", api_base=api_base, api_key="sk-theirs")
        upstream = replace(QUICK, idle_seconds=LONG)
        settings: dict[str, Any] = {
            "local": None,
            "deployments": (there,),
            "default_provider": "openai",
            "upstream": upstream,
        }
        async with opened(folder, **settings) as door:
            yield door


@pytest.mark.parametrize(
    "broken", [b"my secret prompt\r\n", b"zz\r\n\r\n", b"5\r\nhello my secret prompt\r\n"], ids=repr
)
async def test_a_content_whose_frame_breaks_ends_at_once_and_is_not_quoted(
    tmp_path: Path, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with before(tmp_path, [CHUNKED, broken]) as door:
        file_id = (await door.upload(INPUT))["id"]
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(httpx.RemoteProtocolError):
                await door.rest.get(f"/v1/files/{file_id}/content")
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("coding", "data"), PACKED.values(), ids=PACKED)
async def test_a_content_that_comes_packed_is_unpacked(tmp_path: Path, coding: str, data: bytes) -> None:
    async with scene(tmp_path) as found:
        file_id = await found.input()
        found.fake.fault(Answer(200, data, {"content-encoding": coding}), where=CONTENT)
        assert (await found.door.rest.get(f"/v1/files/{file_id}/content")).content == INPUT


@pytest.mark.parametrize(("coding", "data"), UNREADABLE.values(), ids=UNREADABLE)
async def test_a_content_that_cannot_be_unpacked_never_looks_whole(tmp_path: Path, coding: str, data: bytes) -> None:
    async with scene(tmp_path) as found:
        file_id = await found.input()
        found.fake.fault(Answer(200, data, {"content-encoding": coding}), where=CONTENT)
        try:
            answer = await found.door.rest.get(f"/v1/files/{file_id}/content")
        except httpx.RemoteProtocolError:
            return
        refusal(answer, 500)


async def test_no_part_is_cut_out_of_a_packed_content(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        file_id = await found.input()
        for status, more in ((200, {}), (206, {"content-range": "bytes 5-9/99"})):
            answer = Answer(status, gzip.compress(INPUT), {"content-encoding": "gzip", **more})
            found.fake.fault(answer, where=CONTENT)
            got = await found.door.rest.get(f"/v1/files/{file_id}/content", headers={"range": "bytes=5-9"})
            refusal(got, 501)
