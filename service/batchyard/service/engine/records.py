"""The records of a journal's file, and which of its bytes are none.

A record that was cut off at the end never counted. One that can't be read while whole ones follow it did count, and
was damaged since: what is known of it is told, so that nobody takes its line for one that never ran.
"""

import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from batchyard.service.domain.records import Kind
from batchyard.service.jsonl.results import RESULT_ID, Result, Tokens

HEAD = struct.Struct("<IIIB4I")  # checksum of what follows, text length, line, kind, tokens
_CHECKED = 4
_BEFORE_KIND = 12
_WINDOW = 1 << 20
_MAY_BE_HEAD = re.compile(rb"[%b](?=.{16}\{)" % bytes(Kind), re.DOTALL)  # from the kind on; every text is an object


class Record(NamedTuple):
    """A whole record: its bytes in the file, and what they say. `text` is one line of a result file."""

    data: bytes
    line: int
    kind: Kind
    tokens: Tokens

    @property
    def text(self) -> bytes:
        return self.data[HEAD.size :]


class Gap(NamedTuple):
    """Bytes amidst whole records that are none, from `start` on.

    `lines` are those that their heads name, where these follow each other up to the next whole record, and `ids` those
    of results that stand there.
    """

    start: int
    size: int
    lines: frozenset[int]
    ids: frozenset[bytes]


def packed(result: Result) -> bytes:
    """A result as a record."""
    head = HEAD.pack(0, len(result.text), result.line, result.kind, *result.tokens)[_CHECKED:]
    return struct.pack("<I", zlib.crc32(result.text, zlib.crc32(head))) + head + result.text


def is_whole(data: bytes) -> bool:
    """Whether these bytes, a head at least, are a record as it was written."""
    return data[:_CHECKED] == zlib.crc32(memoryview(data)[_CHECKED:]).to_bytes(_CHECKED, "little")


def records(file: BinaryIO) -> Iterator[Record | Gap]:
    """All whole records of a journal in their order, and the gaps between them; nothing of what is torn at its end."""
    at = 0
    while True:
        found = _record_at(file, at)
        if found is None:
            following = _next_record(file, at + 1)
            if following is None:
                return
            yield _gap(file, at, following)
            at = following
        else:
            yield found
            at += len(found.data)


def _length_at(file: BinaryIO, at: int) -> int | None:
    """The length of what may be a record, by its head; None where it can't be one."""
    head = os.pread(file.fileno(), HEAD.size, at)
    if len(head) < HEAD.size or head[_BEFORE_KIND] not in set(Kind):
        return None
    return HEAD.size + int(HEAD.unpack(head)[1])


def _record_at(file: BinaryIO, at: int) -> Record | None:
    length = _length_at(file, at)
    if length is None or os.pread(file.fileno(), 1, at + length - 1) != b"\n":
        return None
    data = os.pread(file.fileno(), length, at)
    if len(data) < length or not is_whole(data):
        return None
    _, _, line, kind, *tokens = HEAD.unpack_from(data)
    return Record(data, line, Kind(kind), Tokens(*tokens))


def _next_record(file: BinaryIO, at: int) -> int | None:
    """Where the next whole record begins."""
    while len(window := os.pread(file.fileno(), _WINDOW, at)) > HEAD.size:
        for match in _MAY_BE_HEAD.finditer(window):
            start = at + match.start() - _BEFORE_KIND
            if match.start() >= _BEFORE_KIND and _record_at(file, start):
                return start
        at += len(window) - HEAD.size
    return None


def _gap(file: BinaryIO, start: int, end: int) -> Gap:
    lines: set[int] = set()
    at = start
    while at < end and (length := _length_at(file, at)):
        lines.add(HEAD.unpack(os.pread(file.fileno(), HEAD.size, at))[2])
        at += length
    ids: set[bytes] = set()
    for window in range(start, end, _WINDOW):
        ids.update(RESULT_ID.findall(os.pread(file.fileno(), min(_WINDOW + 64, end - window), window)))
    return Gap(start, end - start, frozenset(lines if at == end else ()), frozenset(ids))
