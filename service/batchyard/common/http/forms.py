"""A multipart form, read as it comes: its parts, their pieces, and how much room is left for what begins."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import multipart  # type: ignore[import-untyped]

from batchyard.common.http.disposition import filename_in, last_segment

Part: Any = multipart.MultipartSegment
FormError: Any = multipart.MultipartError
_MOST_BOUNDARY = 70  # RFC 2046, 5.1.1
_MOST_NOTED = 64 * 1024
_MOST_HEADER = 9 * 1024  # the longest name that is taken, in base64 and with a percent sign for each byte
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}", re.ASCII)


def field_name(part: Any) -> str:
    """The name of a part; empty where it has none."""
    return _text(part.name or "")


def filename(part: Any) -> str:
    """The name of a part's file, without its path; empty where it has none."""
    found = filename_in(_text(part.header("Content-Disposition", "")))
    return last_segment(_text(part.filename or "")) if found is None else found


def media_type(part: Any) -> str:
    """A part's media type without parameters; empty where it has none."""
    found = part.content_type or ""
    return found if _MEDIA_TYPE.fullmatch(found) else ""


def transfer_encoding(part: Any) -> str:
    """How a part's bytes were rewritten for a transport (RFC 2045, 6); empty where they stand as they are."""
    found = str(part.header("Content-Transfer-Encoding", "")).strip().lower()
    return "" if found in {"7bit", "8bit", "binary"} else found


class FormReader:
    """Reads the form of a request with these headers. Raises ValueError where they are not a form's."""

    def __init__(self, headers: Mapping[str, str], most_parts: int) -> None:
        kind, options = multipart.parse_options_header(headers.get("content-type", ""))
        boundary = options.get("boundary", "")
        if kind != "multipart/form-data" or not 0 < len(boundary) <= _MOST_BOUNDARY:
            raise ValueError("no form")
        self._parser = multipart.PushMultipartParser(
            boundary,
            max_segment_count=most_parts,
            max_header_size=_MOST_HEADER,
            header_charset="latin-1",  # as which any bytes can be read
            strict=True,
        )
        length = headers.get("content-length", "")
        self._length = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        self._noted: bytearray | None = bytearray()  # what came so far; none where that is too much
        self._parts = 0
        self._delimiter = b"\r\n--" + self._parser.boundary
        self._inside = self._plain = False  # within a part, and where the parser holds nothing of it back

    def feed(self, piece: bytes) -> Iterator[Any]:
        """What the next piece holds: a part, then its bytes, then None. Raises FormError."""
        if self._noted is not None:
            self._noted = self._noted + piece if len(self._noted) <= _MOST_NOTED else None
        if self._plain and b"\r" not in piece:  # a byte is found faster than a delimiter, and few files have one
            yield piece
            return
        for event in self._events(piece):
            self._parts += isinstance(event, Part)
            self._inside = event is not None
            yield event
        size = len(self._delimiter)
        self._plain = self._inside and len(piece) >= size and b"\r" not in piece[-size:]  # so nothing is held back

    def close(self) -> None:
        """Raises FormError where the form has not ended."""
        self._parser.close()

    def room(self) -> int | None:
        """The most bytes of the part that has just begun: all but its own last delimiter may be its; None: unknown.

        Exact where the part is the last one.
        """
        if self._length is None or self._noted is None:
            return None
        at = self._noted.find(self._delimiter[2:])
        for _ in range(1, self._parts):
            at = self._noted.find(self._delimiter, at + 1)
        start = self._noted.find(b"\r\n\r\n", at) + 4
        room = self._length - start - len(b"--\r\n") - len(self._delimiter)
        return room if room >= 0 else None

    def _events(self, piece: bytes) -> Iterator[Any]:
        if not self._parser.closed:
            try:
                yield from self._parser.parse(piece)
            except multipart.StrictParserError:
                # Bytes after the last boundary are allowed; close raises where it has not come yet.
                self._parser.close()


def _text(read: str) -> str:
    """What was read as Latin-1, as UTF-8 where it is that: some clients write names as their system has them."""
    try:
        return read.encode("latin-1").decode()
    except UnicodeDecodeError:
        return read
