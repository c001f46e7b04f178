"""Answers that were paid for and are not as they should be: they are read as far as they can be, and asked for once."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.service.running import CHAT, RESPONSES, runner
from tests.speaking import request, speaking

from batchyard.service.jsonl.results import Answer, Failure

BODY = b'{"id":"x","usage":{"prompt_tokens":3,"completion_tokens":2}}'
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)
RAW = zlib.compressobj(wbits=-15)
RAW_DEFLATED = RAW.compress(BODY) + RAW.flush()


def with_length(data: bytes, head: bytes = b"") -> bytes:
    return OK + head + b"content-length: %d\r\n\r\n" % len(data) + data


def packed(coding: str, data: bytes) -> bytes:
    return with_length(data, b"content-encoding: %s\r\n" % coding.encode())


@asynccontextmanager
async def saying(*pieces: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An endpoint that answers each request with these pieces, each in a packet of its own, and hangs up then."""
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await request(reader))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)

    async with speaking(talk) as api_base:
        yield api_base, heads


async def outcome_of(*pieces: bytes, **changes: Any) -> Answer | Failure | None:
    """What becomes of a line that is answered so, which is asked once."""
    async with saying(*pieces) as (api_base, heads), runner(api_base, **changes) as run:
        async with asyncio.timeout(20):
            outcome = await run()
        assert len(heads) == 1
        return outcome


KEPT: dict[str, Sequence[bytes]] = {
    "a header of 100 KB": [with_length(BODY, b"x-trace: %s\r\n" % (b"a" * 100_000))],
    "5,000 headers": [with_length(BODY, b"".join(b"x-%d: 1\r\n" % n for n in range(5_000)))],
    "a folded header": [with_length(BODY, b"x: a\r\n b\r\n")],
    "no reason": [b"HTTP/1.1 200\r\n" + with_length(BODY)[len(OK) :]],
    "bare line feeds": [with_length(BODY).replace(b"\r\n", b"\n")],
    "no last chunk": [CHUNKED + CHUNK],
    "no last chunk, in pieces": [CHUNKED, CHUNK],
    "a broken chunk after it": [CHUNKED, CHUNK, b"zz\r\n\r\n"],
    "a broken trailer": [CHUNKED, CHUNK, b"0\r\nx y: 1\r\n\r\n"],
    "fewer bytes than it says": [with_length(BODY).replace(b"content-length: ", b"content-length: 9")],
    "more bytes than it says": [with_length(BODY), b"more"],
    "no length": [OK + b"\r\n" + BODY],
    "early hints": [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + with_length(BODY)],
    "gzip": [packed("gzip", gzip.compress(BODY))],
    "gzip of two members": [packed("gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]))],
    "gzip with more behind it": [packed("gzip", gzip.compress(BODY) + b"\0\0")],
    "gzip without its end": [packed("gzip", gzip.compress(BODY)[:-6])],
    "gzip that is not said": [with_length(gzip.compress(BODY))],
    "gzip twice": [packed("gzip, gzip", gzip.compress(gzip.compress(BODY)))],
    "deflate": [packed("deflate", zlib.compress(BODY))],
    "bare deflate": [packed("deflate", RAW_DEFLATED)],
    "deflate that is gzip": [packed("deflate", gzip.compress(BODY))],
    "plain, said to be gzip": [packed("gzip", BODY)],
    "plain, said to be deflate": [packed("deflate", BODY)],
    "plain, said to be br": [packed("br", BODY)],
    "identity": [packed("Identity", BODY)],
    "a byte order mark": [with_length(b"\xef\xbb\xbf" + BODY)],
}
LOST: dict[str, tuple[Sequence[bytes], str]] = {
    "two lengths": ([with_length(BODY, b"content-length: 3\r\n")], "no HTTP that can be read"),
    "a length and chunks": (
        [CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n") + CHUNK],
        "no HTTP that can be read",
    ),
    "a header of 1 MB": ([with_length(BODY, b"x-trace: %s\r\n" % (b"a" * 1_000_000))], "no HTTP that can be read"),
    "a status of letters": ([with_length(BODY).replace(b"200", b"2xx")], "no HTTP that can be read"),
    "no chunk": ([CHUNKED, BODY], "its framing can't be read"),
    "brotli": ([packed("br", b"\x0b\x02\x80{}\x03")], "a Content-Encoding that was not asked for"),
    "no gzip": ([packed("gzip", b"\x1f\x8b not")], "not packed as its Content-Encoding says"),
    "a redirect": ([b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 2\r\n\r\n{}"], "its status is 302"),
    "a switch": ([b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"], "(101) is not JSON"),
}


@pytest.mark.parametrize("pieces", KEPT.values(), ids=KEPT)
async def test_what_came_whole_is_kept(pieces: Sequence[bytes]) -> None:
    outcome = await outcome_of(*pieces)
    assert isinstance(outcome, Answer), outcome
    assert (outcome.body, outcome.tokens[::2]) == (BODY, (3, 2))


@pytest.mark.parametrize(("pieces", "reason"), LOST.values(), ids=LOST)
async def test_what_cannot_be_read_is_a_failure_with_the_reason(pieces: Sequence[bytes], reason: str) -> None:
    outcome = await outcome_of(*pieces)
    assert isinstance(outcome, Failure)
    assert outcome.code == "invalid_response"
    assert reason in outcome.message
    assert len(outcome.message) < 300


@pytest.mark.parametrize("packing", [gzip.compress, lambda data: gzip.compress(gzip.compress(data))])
async def test_what_unpacks_to_too_much_is_not_unpacked_further(packing: Any) -> None:
    coding = "gzip" if packing is gzip.compress else "gzip, gzip"
    data = packing(b'"%s"' % (b"a" * (64 << 20)))
    outcome = await outcome_of(packed(coding, data), max_response_bytes=1 << 20)
    assert outcome == Failure("response_too_large", "The answer is larger than 1048576 bytes.")


@asynccontextmanager
async def forgetful(answers: int) -> AsyncIterator[tuple[str, list[int]]]:
    """An endpoint that serves so many requests on a connection, and hangs up on the next one without a word."""
    served: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = len(served)
        served.append(0)
        while served[place] < answers:
            await request(reader)
            served[place] += 1
            writer.write(with_length(BODY))
        await reader.readuntil(b"\r\n\r\n")

    async with speaking(talk) as api_base:
        yield api_base, served


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_a_kept_connection_that_was_closed_fails_no_line(path: str) -> None:
    async with forgetful(2) as (api_base, served), runner(api_base, max_attempts=1, max_concurrency=4) as run:
        for _ in range(10):
            outcomes = await asyncio.gather(*(run(path=path) for _ in range(4)))
            assert all(isinstance(outcome, Answer) for outcome in outcomes), outcomes
        assert sum(served) == 40
        assert (max(served) == 1) is (path == RESPONSES)


async def test_a_refusal_that_repeats_our_key_is_kept_without_it() -> None:
    answer = with_length(b"<pre>Authorization: Bearer sk-ours</pre>").replace(b"200 OK", b"400 Bad Request")
    outcome = await outcome_of(answer, api_key="sk-ours")
    assert isinstance(outcome, Answer)
    assert b"sk-ours" not in outcome.body
    assert b"[hidden]" in outcome.body
