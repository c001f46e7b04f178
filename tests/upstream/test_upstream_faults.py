import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from tests.upstream.exchange import Seen
from tests.upstream.faults import Answer, Broken, Deaf, Fault, Hang, Held, Refuse, Reset, Slow, Stalled, to
from tests.upstream.openai import FakeOpenAI, fake_openai
from tests.upstream.plain import create, rest, upload
from tests.upstream.quirks import Quirks

BIG = 3_000_000  # more than the kernel holds of a connection
FORM = {"content-type": "multipart/form-data; boundary=x"}
FORM_HEAD = b'--x\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with fake_openai() as running:
        yield running


@pytest.fixture
async def client(fake: FakeOpenAI) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(fake.api_base, authorization=f"Bearer {fake.key}") as opened:
        yield opened


def content(fake: FakeOpenAI, size: int = 10_000) -> str:
    return f"/files/{fake.add_file(b'x' * size)}/content"


async def taken(client: httpx.AsyncClient, path: str) -> tuple[int, type[Exception] | None]:
    """How many bytes of a download came, and what ended it."""
    count = 0
    try:
        async with client.stream("GET", path) as answer:
            async for piece in answer.aiter_raw():
                count += len(piece)
    except httpx.HTTPError as error:
        return count, type(error)
    return count, None


def test_matches_a_method_and_the_end_of_a_path() -> None:
    file = Seen("GET", "/openai/files/file-1", {}, {})
    assert to("GET", "/files/[^/]+")(file)
    assert not to("GET", "/files")(file)
    assert not to("DELETE", "/files/[^/]+")(file)


@pytest.mark.parametrize("acts", [False, True])
async def test_answer_comes_instead_of_acting_or_after_it(
    client: httpx.AsyncClient, fake: FakeOpenAI, acts: bool
) -> None:
    fake.fault(Answer(500, acts=acts), where=to("POST", "/batches"))
    fake.fault(Answer(502, b"<html>", {"retry-after": "1"}, acts=acts), where=to("POST", "/batches"))
    first, second, third = [await create(client, "file-x") for _ in range(3)]
    assert (first.status_code, first.json()["error"]["type"]) == (500, "server_error")
    assert (second.status_code, second.content, second.headers["retry-after"]) == (502, b"<html>", "1")
    assert third.status_code == 200
    assert len(fake.batches) == (3 if acts else 1)
    assert not fake.faults


async def test_faults_are_for_the_requests_they_match(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    fake.fault(Answer(429), times=2, where=to("GET", "/files"))
    fake.fault(fake.token_limit(), where=lambda seen: seen.method == "POST" and seen.body["metadata"] == {"n": "2"})
    codes = [(await client.get("/files")).status_code for _ in range(3)]
    assert codes == [429, 429, 200]
    creates = [await create(client, "file-x", metadata={"n": n}) for n in ("1", "2")]
    assert [answer.status_code for answer in creates] == [200, 400]
    assert creates[1].json()["error"]["code"] == "token_limit_exceeded"


@pytest.mark.parametrize("acts", [False, True])
@pytest.mark.parametrize(("clean", "error"), [(False, httpx.ReadError), (True, httpx.RemoteProtocolError)])
async def test_reset_before_any_answer(
    client: httpx.AsyncClient, fake: FakeOpenAI, acts: bool, clean: bool, error: type[Exception]
) -> None:
    fake.fault(Reset(acts=acts, clean=clean))
    with pytest.raises(error):
        await create(client, "file-x")
    assert len(fake.batches) == acts
    assert fake.requests[0].status is None
    assert (await create(client, "file-x")).status_code == 200


@pytest.mark.parametrize("acts", [False, True])
async def test_hang_until_the_client_leaves(client: httpx.AsyncClient, fake: FakeOpenAI, acts: bool) -> None:
    fake.fault(Hang(acts=acts))
    waiting = asyncio.create_task(create(client, "file-x"))
    seen = await fake.arrival(to("POST", "/batches"))
    waiting.cancel()
    await asyncio.wait([waiting])
    await seen.ended.wait()
    assert seen.left
    assert len(fake.batches) == acts


@pytest.mark.parametrize("acts", [False, True])
async def test_held_until_the_gate_opens(client: httpx.AsyncClient, fake: FakeOpenAI, acts: bool) -> None:
    gate = asyncio.Event()
    fake.fault(Held(gate, acts=acts))
    waiting = asyncio.create_task(create(client, "file-x"))
    await fake.arrival(to("POST", "/batches"))
    await client.get("/files")
    assert len(fake.batches) == acts
    gate.set()
    assert (await waiting).status_code == 200
    assert len(fake.batches) == 1


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_content_breaks_off(client: httpx.AsyncClient, fake: FakeOpenAI, clean: bool, chunked: bool) -> None:
    path = content(fake)
    fake.fault(Broken(1000, chunked=chunked, clean=clean))
    error = httpx.RemoteProtocolError if clean else httpx.ReadError
    assert await taken(client, path) == (1000, error)
    assert await taken(client, path) == (10_000, None)


async def test_content_stalls(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    path = content(fake)
    fake.fault(Stalled(1000))
    async with client.stream("GET", path) as answer:
        assert answer.headers["content-length"] == "10000"
        pieces = answer.aiter_raw(1000)
        assert len(await anext(pieces)) == 1000
    seen = fake.requests[-1]
    await seen.ended.wait()
    assert (seen.left, seen.status) == (True, 200)


async def test_content_is_slow(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    fake.fault(Slow(0.005, piece=1000))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await taken(client, content(fake, 5000)) == (5000, None)
    assert loop.time() - began >= 0.02


async def test_client_that_leaves_a_download_is_noted(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    async with client.stream("GET", content(fake, 30 * BIG)):
        pass
    await fake.requests[-1].ended.wait()
    assert fake.requests[-1].left


@pytest.mark.parametrize("abrupt", [False, True])
async def test_upload_is_refused_in_its_midst(client: httpx.AsyncClient, fake: FakeOpenAI, abrupt: bool) -> None:
    fake.fault(Refuse(100_000, abrupt=abrupt))
    refused: httpx.Response | None = None
    try:
        refused = await upload(client, b"x" * BIG)
    except httpx.TransportError:
        assert abrupt
    assert abrupt or (refused and refused.status_code == 413)
    seen = fake.requests[-1]
    await seen.ended.wait()
    assert seen.status == 413
    assert (seen.length < BIG) == abrupt
    assert not fake.files


@pytest.mark.parametrize("fault", [Reset(after=100_000), Deaf(after=100_000)])
async def test_upload_is_cut_in_its_midst(client: httpx.AsyncClient, fake: FakeOpenAI, fault: Fault) -> None:
    fake.fault(fault)
    with pytest.raises((httpx.WriteError, httpx.ReadError, httpx.WriteTimeout)):
        await client.post("/files", content=_form(10 * BIG), headers=FORM, timeout=0.3)
    seen = fake.requests[-1]
    assert 100_000 <= seen.length < 10 * BIG
    assert seen.status is None


async def test_client_that_leaves_an_upload_is_noted(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield FORM_HEAD
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await client.post("/files", content=breaking(), headers=FORM)
    seen = await fake.arrival()
    await seen.ended.wait()
    assert (seen.left, seen.chunked, seen.content_length) == (True, True, None)
    assert not fake.files


async def test_content_without_its_length() -> None:
    quirks = Quirks(content_chunked=True, ranges=False)
    async with fake_openai(quirks) as fake, rest(fake.api_base, authorization=f"Bearer {fake.key}") as client:
        answer = await client.get(content(fake), headers={"range": "bytes=0-1"})
    assert (answer.status_code, len(answer.content)) == (200, 10_000)
    assert "content-length" not in answer.headers


async def test_a_defect_of_the_fake_fails_its_context() -> None:
    async def broken() -> int:
        async with fake_openai() as fake, rest(fake.api_base) as client:
            fake.fault(Answer(500), where=lambda _: 1 // 0 > 0)
            return (await client.get("/files")).status_code

    with pytest.raises(ZeroDivisionError):
        await broken()


async def _pieces(data: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def _form(size: int) -> AsyncIterator[bytes]:
    return _pieces(iter([FORM_HEAD, *[b"x" * 50_000] * (size // 50_000), b"\r\n--x--\r\n"]))
