"""An upload's form, read as a stream."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import multipart  # type: ignore[import-untyped]
from tests.upstream.abridging import Abridged
from tests.upstream.exchange import Exchange, Part
from tests.upstream.refusals import Refusal

_FIRST_BYTES = 1 << 20


class Upload:
    """A file's bytes: what they come to, and themselves where they are to be kept, or its lines in a short form."""

    def __init__(self, filename: str = "", content_type: str = "", *, keep: bool = True, abridge: bool = False) -> None:
        self.filename = filename
        self.content_type = content_type
        self.size = 0
        self._hash = sha256()
        self._kept: bytearray | None = bytearray() if keep and not abridge else None
        self._abridged = Abridged() if abridge else None
        self._first = bytearray()
        self._newlines = 0
        self._last = b""

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self._hash.update(piece)
        if self._kept is not None:
            self._kept += piece
        if self._abridged:
            self._abridged.add(piece)
        if not self._newlines and len(self._first) < _FIRST_BYTES:
            self._first += piece
        self._newlines += piece.count(b"\n")
        self._last = piece[-1:]

    @property
    def data(self) -> bytes:
        if self._abridged:
            self._abridged.end()
            return bytes(self._abridged.lines)
        return bytes(self._kept or b"")

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def lines(self) -> int:
        return self._newlines + (self._last not in {b"", b"\n"})

    @property
    def first_line(self) -> bytes | None:
        """None where it is too long to be kept."""
        line, newline, _ = self._first.partition(b"\n")
        return bytes(line) if newline or self.size == len(line) else None


@dataclass
class Form:
    """Fields by their names, and the file."""

    fields: dict[str, str] = field(default_factory=dict)
    file: Upload | None = None

    def life(self, pattern: str) -> dict[str, Any] | None:
        """expires_after, put together from the fields whose names match `pattern`, a group of which is the member."""
        members: dict[str, Any] = {}
        for name, text in self.fields.items():
            if match := re.fullmatch(pattern, name):
                members[match[1]] = int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text
        return members or None


async def read_form(exchange: Exchange, *, keep: bool, abridge: bool) -> Form:
    """Reads the form to its end, and notes its parts as they come. Raises Refusal where it is no whole form."""
    reader = _Reader(exchange, keep=keep, abridge=abridge)
    try:
        parser = _parser(exchange.seen.headers.get("content-type", ""))
        while piece := await exchange.read():
            for event in _events(parser, piece):
                reader.take(event)
        parser.close()
    except (multipart.MultipartError, UnicodeError) as error:
        raise Refusal(400, "Could not parse multipart form.") from error
    return reader.form


class _Reader:
    def __init__(self, exchange: Exchange, **kept: bool) -> None:
        self.form = Form()
        self._parts = exchange.seen.parts
        self._kept = kept
        self._part = Part("", {}, "")
        self._file: Upload | None = None
        self._value = bytearray()

    def take(self, event: Any) -> None:
        if isinstance(event, multipart.MultipartSegment):
            headers = {name.lower(): value for name, value in event.headerlist}
            self._part = Part(event.name or "", headers, "")
            is_file = event.filename is not None
            content_type = headers.get("content-type", "")
            self._file = Upload(event.filename, content_type, **self._kept) if is_file else None
            self._value.clear()
        elif event is None:
            self._end()
        elif self._file:
            self._file.add(bytes(event))
        else:
            self._value += event

    def _end(self) -> None:
        if self._file:
            value = self._file.sha256
            if self._part.name == "file":
                self.form.file = self._file
        else:
            value = self._value.decode()
            self.form.fields[self._part.name] = value
        self._parts.append(self._part._replace(value=value))


def _parser(content_type: str) -> multipart.PushMultipartParser:
    _, options = multipart.parse_options_header(content_type)
    return multipart.PushMultipartParser(options.get("boundary", ""), strict=True)


def _events(parser: multipart.PushMultipartParser, piece: bytes) -> Iterator[Any]:
    if not parser.closed:
        try:
            yield from parser.parse(piece)
        except multipart.StrictParserError:
            # Bytes after the last boundary are allowed; close raises where it has not come yet.
            parser.close()
