"""Forms of any make, sent over a plain socket in any pieces, to a shim in front of a service."""

import asyncio
import re
from typing import NamedTuple

import httpx
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import KEY, chat_lines, jsonl, until

from .conftest import SOON, Door
from .inputs import bounded, cut, cuts, mutated

ANSWER_SECONDS = 30
GOOD = jsonl(chat_lines(3))
CONTENT = st.sampled_from([GOOD, GOOD, jsonl(chat_lines(40)), b"", b"\n", b"a,b\n", b"{}", b"\r\n--b0und"])
NAMES = st.sampled_from(["purpose", "purpose", "provider", "expires_after[seconds]", "expires_after.anchor", "x", ""])
VALUES = st.sampled_from(["batch", "batch", "user_data", "local", "created_at", "3600", "-1", "é\n", "x" * 300])
FILENAMES = st.sampled_from(["input.jsonl", "input.jsonl", "input.jsonl", "a.csv", "", "é.jsonl", "a\\b.jsonl"])


class Sent(NamedTuple):
    """A body, how it says where it ends, and how much of it is sent."""

    body: bytes
    chunked: bool
    kept: int

    @property
    def whole(self) -> bool:
        return self.kept >= len(self.body)


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """A form: mostly one that is a good upload."""
    field = st.tuples(NAMES, VALUES).map(lambda pair: part(f'name="{pair[0]}"', pair[1].encode()))
    file = st.tuples(FILENAMES, CONTENT).map(lambda pair: part(f'name="file"; filename="{pair[0]}"', pair[1]))
    purpose = part('name="purpose"', draw(st.sampled_from([b"batch", b"user_data"])))
    named, more = draw(st.integers(0, 7)) > 0, draw(st.integers(0, 2)) == 0
    parts = [*([purpose] if named else []), draw(file), *(draw(st.lists(field | file, max_size=2)) if more else [])]
    return b"".join(draw(st.permutations(parts))) + b"--b0undary--\r\n"


def part(disposition: str, content: bytes) -> bytes:
    return f"--b0undary\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


BODIES = forms() | mutated(forms()) | st.binary(max_size=300)
SENT = st.builds(Sent, BODIES, st.booleans(), st.just(1 << 20) | st.just(1 << 20) | st.integers(0, 2000))


@bounded(250)
@given(sent=SENT, at=cuts(2000))
async def test_a_form_is_kept_whole_or_answered_with_a_refusal(door: Door, sent: Sent, at: list[int]) -> None:
    await door.emptied()
    answer = await answered(door.port, request(sent, at), sent.whole)
    assert answer is not None or not sent.whole
    if answer is not None and answer.status_code == 200:
        content = await door.grpc.read(answer.json()["id"])
        assert sent.whole
        assert content + b"\r\n--b0undary" in sent.body
        assert b"--b0undary--" in sent.body
        assert await door.kept() == [answer.json()["id"]]
        return
    if answer is not None:
        assert 400 <= answer.status_code < 500, answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    await until(door.kept, lambda names: not names, patience=SOON)


@bounded(60)
@given(data=st.data(), file_first=st.booleans(), at=cuts(2000))
async def test_a_good_form_that_ends_early_is_refused_wherever_it_ends(
    door: Door, data: st.DataObject, file_first: bool, at: list[int]
) -> None:
    parts = [part('name="purpose"', b"user_data"), part('name="file"; filename="a"', GOOD)]
    form = b"".join(reversed(parts) if file_first else parts) + b"--b0undary--\r\n"
    body = form[: data.draw(st.integers(0, len(form) - 4))]
    answer = await answered(door.port, request(Sent(body, False, len(body)), at), whole=True)
    assert answer is not None
    assert (answer.status_code, await door.listed()) == (400, [])


def request(sent: Sent, at: list[int]) -> list[bytes]:
    """The pieces in which the request goes to the socket."""
    length = "transfer-encoding: chunked" if sent.chunked else f"content-length: {len(sent.body)}"
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\n{length}\r\n"
        "content-type: multipart/form-data; boundary=b0undary\r\n\r\n"
    )
    pieces = cut(sent.body[: sent.kept], at)
    if sent.chunked:
        pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece]
        pieces += [b"0\r\n\r\n"] if sent.whole else []
    return [head.encode(), *pieces]


async def answered(port: int, pieces: list[bytes], whole: bool) -> httpx.Response | None:
    """The answer; a request that breaks off need not get one."""
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            if not whole:
                writer.write_eof()
            return response(await reader.read())
        except ConnectionError:
            return None
        finally:
            writer.close()


def response(raw: bytes) -> httpx.Response | None:
    head, separator, body = raw.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1.1 (\d{3}) ", head)
    if not status or not separator:
        return None
    return httpx.Response(int(status[1]), content=body)
