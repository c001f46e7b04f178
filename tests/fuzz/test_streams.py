"""Upload streams of any messages in any order, against a model of what the contract allows."""

import asyncio
import json
from hashlib import sha256
from typing import NamedTuple

from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import chat_lines, jsonl, until

from batchyard.common.calls import CallError
from batchyard.v1 import (
    ExpiresAfter,
    File,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
    batch_service_pb2,
)

from .conftest import SOON, Door
from .inputs import bounded, cut, cuts

UPLOAD = batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"].methods_by_name["UploadFile"]
CALL_SECONDS = 30
MOST_PIECE = 1 << 20
BATCH = jsonl(chat_lines(3))
CONTENTS = st.sampled_from([BATCH, BATCH, b"{}\nhello", b"\n \n", b"a,b\n", b"\xef\xbb\xbf{}", b""])


class Finish(NamedTuple):
    """A finish that announces `more` bytes than came, and perhaps a digest: the right one, or this one."""

    more: int = 0
    digest: bytes | None = None
    digested: bool = False

    def message(self, content: bytes) -> UploadFileRequest:
        digest = sha256(content).digest() if self.digested else self.digest
        return UploadFileRequest(finish=UploadFileFinish(size=len(content) + self.more, sha256=digest))


class Piece(NamedTuple):
    """A piece of data by its size: hypothesis shows what it has drawn."""

    size: int


Message = UploadFileMetadata | bytes | Piece | Finish | None
PIECES: st.SearchStrategy[bytes | Piece] = st.sampled_from(
    [Piece(0), Piece(1), b"\n", Piece(MOST_PIECE), Piece(MOST_PIECE + 1)]
)
METADATA = st.builds(
    UploadFileMetadata,
    provider=st.sampled_from(["", "", "local", "nowhere"]),
    purpose=st.sampled_from(["", "batch", "user_data", "fun"]),
    filename=st.sampled_from(["", "a.jsonl", "a.csv", "a\nb", "é" * 513]),
    expires_after=st.none()
    | st.builds(
        ExpiresAfter,
        anchor=st.sampled_from(["", "created_at", "now"]),
        seconds=st.sampled_from([0, 3599, 3600, 2_592_000, 2_592_001, -(2**63)]),
    ),
)
FINISHES = st.builds(
    Finish, st.sampled_from([0, 0, 0, 1, -1, 2**62]), st.sampled_from([None, b"", b"x" * 32]), st.booleans()
)
ANY: st.SearchStrategy[Message] = METADATA | PIECES | FINISHES | st.none()


@st.composite
def streams(draw: st.DrawFn) -> list[Message]:
    """A good upload with a few messages replaced by any others, moved or left out; or any messages at all."""
    content = draw(CONTENTS)
    purpose = draw(st.sampled_from(["batch", "user_data"]))
    early, late = UploadFileMetadata(filename="a.jsonl"), UploadFileMetadata(purpose=purpose)
    pieces = [piece for piece in cut(content, draw(cuts(len(content)))) if piece]
    messages: list[Message] = [*draw(st.permutations([early, late])), *pieces, draw(FINISHES)]
    if draw(st.booleans()):
        messages[1], messages[-2] = messages[-2], messages[1]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(messages)))
        messages[at : at + draw(st.integers(0, 1))] = draw(st.lists(ANY, max_size=1))
    return messages


class Model:
    """What becomes of a stream: the content that is kept, or None."""

    def __init__(self) -> None:
        self.content = b""
        self.metadata: UploadFileMetadata | None = None
        self.begun_as: str | None = None

    def kept(self, messages: list[Message]) -> bytes | None:
        for message in messages:
            if isinstance(message, Finish):
                return self.content if self.opens() and self.finishes(message) else None
            if not self.takes(message):
                return None
        return None

    def takes(self, message: UploadFileMetadata | bytes | Piece | None) -> bool:
        if isinstance(message, UploadFileMetadata):
            return self.describes(message)
        data = content_of(message)
        if not 0 < len(data) <= MOST_PIECE or not self.opens():
            return False
        self.content += data
        return True

    def describes(self, metadata: UploadFileMetadata) -> bool:
        if self.begun_as is not None and metadata.provider not in {"", "local"}:
            return False
        self.metadata = self.metadata or UploadFileMetadata()
        self.metadata.MergeFrom(metadata)
        name, purpose = self.metadata.filename, self.metadata.purpose
        fits = purpose != "batch" or "." not in name or name.endswith(".jsonl")
        return purpose != "fun" and len(name) <= 512 and "\n" not in name and fits

    def opens(self) -> bool:
        if self.metadata is None or self.begun_as is not None:
            return self.metadata is not None
        self.begun_as = self.metadata.purpose
        return self.metadata.provider in {"", "local"}

    def finishes(self, finish: Finish) -> bool:
        assert self.metadata is not None
        after, purpose = self.metadata.expires_after, self.metadata.purpose
        lasts = after.anchor == "created_at" and 3600 <= after.seconds <= 2_592_000
        sound = finish.more == 0 and (finish.digested or finish.digest is None)
        known = purpose == "user_data" or (purpose == "batch" and self.begun_as != "user_data" and self.is_batch())
        return sound and known and (lasts or not self.metadata.HasField("expires_after"))

    def is_batch(self) -> bool:
        first = next((line for line in self.content.split(b"\n") if line.strip(b" \t\r")), b"")
        try:
            json.loads(first.removeprefix(b"\xef\xbb\xbf"))
        except ValueError:
            return False
        return True


@bounded(250)
@given(messages=streams() | st.lists(ANY, max_size=5))
async def test_a_file_is_kept_if_and_only_if_its_stream_is_legal(door: Door, messages: list[Message]) -> None:
    expected = Model().kept(messages)
    await door.emptied()
    async with asyncio.timeout(CALL_SECONDS):
        answer = await answered(door, sent(messages))
    if isinstance(answer, File):
        assert (await door.grpc.read(answer.id), answer.bytes) == (expected, len(expected or b""))
        assert await door.kept() == [answer.id]
    else:
        assert (answer, expected) == (StatusCode.INVALID_ARGUMENT, None)
        await until(door.kept, lambda names: not names, patience=SOON)


async def answered(door: Door, messages: list[UploadFileRequest]) -> File | StatusCode:
    """Sends a stream by the shim's caller: grpc's own forgets why a call ended while it was still sending."""
    try:
        async with door.caller.upload(UPLOAD, metadata=door.grpc.metadata) as call:
            await call.accepted()
            for message in messages:
                await call.write(message)
            file: File = (await call.result()).file
            return file
    except CallError as error:
        return error.code


def content_of(message: bytes | Piece | None) -> bytes:
    return b"x" * message.size if isinstance(message, Piece) else message or b""


def sent(messages: list[Message]) -> list[UploadFileRequest]:
    out, content = [], b""
    for message in messages:
        if isinstance(message, Finish):
            out.append(message.message(content))
        elif isinstance(message, bytes | Piece):
            content += content_of(message)
            out.append(UploadFileRequest(data=content_of(message)))
        else:
            out.append(UploadFileRequest(metadata=message))
    return out
