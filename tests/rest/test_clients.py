"""Uploads by clients of other makers, at real sizes and with what each of them says in its head."""

import asyncio
import json
import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from tests.harness import KEY, chat_line, jsonl
from tests.processes import ROOT

from .conftest import BEARER, Door, batch_request

PATIENCE = 120.0
SIZES = {"10 KB": 10_000, "2 MB": 2_000_000, "50 MB": 50_000_000}
CURL = {
    "a form": (),
    "chunks": ("-H", "Transfer-Encoding: chunked"),
    "an offer of h2c": ("--http2",),
    "HTTP/1.0": ("-0",),
    "Expect": ("-H", "Expect: 100-continue"),
}
JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.Path;

class Upload {
    public static void main(String[] args) throws Exception {
        var body = HttpRequest.BodyPublishers.ofFile(Path.of(args[1]));
        var chunked = HttpRequest.BodyPublishers.fromPublisher(body);
        for (var each : new HttpRequest.BodyPublisher[] {body, chunked}) {
            var client = HttpClient.newHttpClient();
            for (var expecting : new boolean[] {false, true}) {
                var request = HttpRequest.newBuilder(URI.create(args[0] + "/v1/files"))
                    .header("Authorization", "Bearer " + args[2])
                    .header("Content-Type", "multipart/form-data; boundary=b0undary")
                    .expectContinue(expecting).POST(each).build();
                var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
                System.out.println(answer.body().replace("\\n", " "));
            }
        }
    }
}
"""
NODE = """
const [base, path, key] = process.argv.slice(1);
const form = new FormData();
form.set("purpose", "batch");
form.set("file", new Blob([require("fs").readFileSync(path)]), "input.jsonl");
fetch(base + "/v1/files", {method: "POST", body: form, headers: {Authorization: `Bearer ${key}`}})
  .then((answer) => answer.text()).then((text) => console.log(text));
"""


def content(size: int) -> bytes:
    """A batch input of about `size` bytes."""
    line = jsonl([chat_line("request-%08d", "x" * 900)])
    return b"".join(line % number for number in range(size // len(line) + 1))


def form_of(data: bytes, disposition: str = 'form-data; name="file"; filename="input.jsonl"') -> bytes:
    purpose = b'--b0undary\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head = f"--b0undary\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
    return purpose + head + data + b"\r\n--b0undary--\r\n"


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def check(door: Door, file: dict[str, Any], data: bytes) -> None:
    """The file holds exactly the data."""
    assert file.get("bytes") == len(data), file
    assert (await door.rest.get(f"/v1/files/{file['id']}/content")).content == data


def base(door: Door) -> str:
    return f"http://127.0.0.1:{door.port}"


@pytest.mark.parametrize("how", CURL.values(), ids=CURL)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_curl(door: Door, tmp_path: Path, size: int, how: tuple[str, ...]) -> None:
    data, path = content(size), tmp_path / "input.jsonl"
    path.write_bytes(data)
    key = f"Authorization: Bearer {KEY}"
    options = ("-sS", "-F", "purpose=batch", "-F", f"file=@{path}", "-H", key, *how)
    await check(door, json.loads(await run("curl", *options, f"{base(door)}/v1/files")), data)


@pytest.mark.parametrize("how", CURL.values(), ids=CURL)
async def test_curl_creates_a_batch(door: Door, how: tuple[str, ...]) -> None:
    options = ("-sS", "-d", json.dumps(batch_request("file-none")), "-H", f"Authorization: Bearer {KEY}", *how)
    answer = await run("curl", *options, "-H", "Content-Type: application/json", f"{base(door)}/v1/batches")
    assert json.loads(answer)["object"] == "batch"


async def test_curl_reads_why_a_large_upload_is_refused(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(content(50_000_000))
    for how in CURL.values():
        options = ("-sS", "-F", "purpose=batch", "-F", f"file=@{path}", "-H", "Authorization: Bearer wrong", *how)
        answer = json.loads(await run("curl", *options, f"{base(door)}/v1/files"))
        assert answer["error"]["code"] == "invalid_api_key"


@pytest.mark.skipif(not shutil.which("javac"), reason="there is no JDK; test_its_exact_bytes has what it sends")
async def test_the_jdk(door: Door, tmp_path: Path) -> None:
    data = content(2_000_000)
    (tmp_path / "form").write_bytes(form_of(data))
    (tmp_path / "Upload.java").write_text(JAVA)
    out = await run("java", str(tmp_path / "Upload.java"), base(door), str(tmp_path / "form"), KEY)
    files = [json.loads(line) for line in out.splitlines()]
    assert [file.get("bytes") for file in files] == [len(data)] * 4, out
    for file in files:
        await check(door, file, data)


async def test_nodes_fetch(door: Door, tmp_path: Path) -> None:
    data, path = content(2_000_000), tmp_path / "input.jsonl"
    path.write_bytes(data)
    node = ROOT / ".venv-node/bin/node"
    command = str(node) if node.exists() else "node"
    await check(door, json.loads(await run(command, "-e", NODE, "--", base(door), str(path), KEY)), data)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_requests(door: Door, size: int) -> None:
    data = content(size)

    def upload() -> Any:
        with requests.Session() as session:
            session.trust_env = False
            files = {"file": ("input.jsonl", data)}
            url = f"{base(door)}/v1/files"
            return session.post(url, headers=BEARER, data={"purpose": "batch"}, files=files, timeout=PATIENCE).json()

    await check(door, await asyncio.to_thread(upload), data)


@pytest.mark.parametrize("expect", [False, True])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_aiohttp(door: Door, size: int, expect: bool) -> None:
    data = content(size)
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", BytesIO(data), filename="input.jsonl")
    async with (
        aiohttp.ClientSession(headers=BEARER) as session,
        session.post(f"{base(door)}/v1/files", data=form, expect100=expect) as answer,
    ):
        await check(door, await answer.json(), data)


def in_chunks(data: bytes, size: int = 32 << 10) -> bytes:
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


PLAIN = 'form-data; name="file"; filename="input.jsonl"'
STARRED = "form-data; name=file; filename=input.jsonl; filename*=utf-8''input.jsonl"
KIND = "Content-Type: multipart/form-data; boundary=b0undary"
H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAA"
JDK = f"{H2C}\r\nUser-Agent: Java-http-client/17.0.15\r\n{KIND}"
DOTNET = KIND.replace("b0undary", '"b0undary"')
GO = f"User-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n{KIND}"
WAITING = "\r\nExpect: 100-continue"
BY_HAND = {  # the lines of the head, the disposition of the form's file, and whether the form comes in chunks
    "the JDK": (JDK, PLAIN, False),
    "the JDK, in chunks": (JDK, PLAIN, True),
    ".NET": (DOTNET, STARRED, False),
    ".NET that waits": (DOTNET + WAITING, STARRED, False),
    "Go": (GO, PLAIN, True),
    "Go that waits": (GO + WAITING, PLAIN, True),
}


@pytest.mark.parametrize(("lines", "disposition", "chunked"), BY_HAND.values(), ids=BY_HAND)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_its_exact_bytes(door: Door, size: int, lines: str, disposition: str, chunked: bool) -> None:
    data = content(size)
    body = form_of(data, disposition)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nAuthorization: Bearer {KEY}\r\n{framing}\r\n{lines}"
    )
    async with asyncio.timeout(PATIENCE):
        reader, writer = await door.send_raw(head.encode() + b"\r\n\r\n")
        if "Expect" in lines:
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(in_chunks(body) if chunked else body)
        await writer.drain()
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 "), answer + await reader.read()
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        await check(door, json.loads(await reader.readexactly(length)), data)
        writer.close()
