"""What an input of a batch is, judged by its beginning and its size before anything is sent.

The service judges the same file once it has all of it; what is refused here could only fail there.
"""

import json
import re
import shlex
from io import BytesIO
from typing import NamedTuple

from batchyard.cli.errors import RunError

_SHAPE = (
    'Each line must be a request as one JSON object: {"custom_id": "...", "method": "POST", "url": '
    '"/v1/chat/completions", "body": {...}}'
)
_NEW = "NEW.jsonl"
_UNPACKED = (
    (b"\x1f\x8b", "is compressed by gzip", "gunzip -c"),
    (b"BZh", "is compressed by bzip2", "bunzip2 -c"),
    (b"\xfd7zXZ\0", "is compressed by xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", "zstd -dc"),
    (b"PK\x03\x04", "is a ZIP archive", "unzip -p"),
    (b"\xef\xbb\xbf", "begins with a byte order mark, which makes line 1 fail", "tail -c +4"),
    (b"\xff\xfe\0\0", "is in UTF-32, not UTF-8", "iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "is in UTF-32, not UTF-8", "iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "is in UTF-16, not UTF-8", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "is in UTF-16, not UTF-8", "iconv -f UTF-16 -t UTF-8"),
    (b"{\0", "is in UTF-16, not UTF-8", "iconv -f UTF-16LE -t UTF-8"),
    (b"\0{", "is in UTF-16, not UTF-8", "iconv -f UTF-16BE -t UTF-8"),
)
"""How an input begins, what that means, and the command that makes it readable."""
_FOREIGN = (
    (b"%PDF", "is a PDF"),
    (b"\xd0\xcf\x11\xe0", "is an old Office document"),
    (b"PAR1", "is a Parquet file"),
    (b"7z\xbc\xaf", "is a 7-Zip archive"),
    (b"SQLite format 3", "is an SQLite database"),
)
_BLANK = b" \t\r\n"


class Bounds(NamedTuple):
    """The most lines and bytes that a provider takes as a batch's input."""

    provider: str
    lines: int
    size: int


def bounds_in(header: str, provider: str) -> Bounds | None:
    """What the service's `BOUNDS` says of a provider, empty for the default; None where that has none of its own."""
    if found := re.search(rf"(?:^| ){re.escape(provider)}=(\d+)/(\d+)(?: |$)", header):
        return Bounds(provider or "the default provider", int(found[1]), int(found[2]))
    return None


class Lines:
    """Counts the requests of an input that comes in pieces, and its bytes."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self._blank = True  # the line so far

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        for line in BytesIO(piece):
            if self._blank and line.strip(_BLANK):
                self._blank = False
                self.count += 1
            if line.endswith(b"\n"):
                self._blank = True

    def check(self, bounds: Bounds | None, path: str) -> None:
        """Raises RunError as soon as there are more than the bounds allow."""
        if bounds and self.count > bounds.lines:
            what, by = f"has more than {bounds.lines:,} lines", f"-l {bounds.lines}"
        elif bounds and self.size > bounds.size:
            what, by = f"is larger than {bounds.size:,} bytes", f"-C {bounds.size}"
        else:
            return
        raise RunError(
            f"{_shown(path)} {what}, the most that {bounds.provider} takes in a batch. Nothing is stored. To make "
            f"several inputs of it: split {by} {_quoted(path)} part-"
        )


def check_head(head: bytes, path: str, *, whole: bool) -> None:
    """Raises RunError for an input that begins like something that can't be a batch's.

    `head` has the first line that isn't blank, and where it is `whole` the end of that too; `path` is the input's, `-`
    stdin.
    """
    name = _shown(path)
    for magic, what, command in _UNPACKED:
        if head.startswith(magic):
            if b"[Content_Types].xml" in head or b"xl/" in head[:4096]:
                raise RunError(f"{name} is an Office document, not JSON Lines. {_SHAPE}")
            raise RunError(f"{name} {what}. To have it as JSON Lines: {command} {_quoted(path)} > {_NEW}")
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise RunError(f"{name} {what}, not JSON Lines. {_SHAPE}")
    text = head.lstrip(_BLANK)
    if not text:
        if whole:
            raise RunError(f"{name} is empty. {_SHAPE}")
        return
    number = head[: len(head) - len(text)].count(b"\n") + 1
    line, newline, _ = text.partition(b"\n")
    if newline or whole:
        _check_line(line, text, path, number)


def check_name(name: str, path: str) -> None:
    """Raises RunError for a name with which a service takes no batch's input."""
    if "." in name and not name.endswith(".jsonl"):
        new = shlex.quote(f"{path.rpartition('.')[0]}.jsonl")
        raise RunError(f"the name of a batch's input ends in .jsonl, that of {path} does not: mv {_quoted(path)} {new}")


def _check_line(line: bytes, text: bytes, path: str, number: int) -> None:
    name, where = _shown(path), f"line {number} of {_shown(path)}"
    try:
        found = json.loads(line)
    except RecursionError:
        return
    except UnicodeDecodeError:
        raise RunError(
            f"{where} is not UTF-8. If it is Latin-1: iconv -f ISO-8859-1 -t UTF-8 {_quoted(path)} > {_NEW}"
        ) from None
    except json.JSONDecodeError as error:
        raise RunError(_not_json(line, text, path, where, error)) from None
    if isinstance(found, list):
        raise RunError(f"{name} is one JSON array. To have a line a request: jq -c '.[]' {_quoted(path)} > {_NEW}")
    if not isinstance(found, dict):
        raise RunError(f"{where} is JSON, but no object. {_SHAPE}")


def _not_json(line: bytes, text: bytes, path: str, where: str, error: json.JSONDecodeError) -> str:
    name = _shown(path)
    if b"\0" in text[:4096]:
        return f"{name} is not text. {_SHAPE}"
    if line.startswith(b"<"):
        return f"{name} is HTML or XML, not JSON Lines. {_SHAPE}"
    following = text.split(b"\n", 2)[1:2]
    if line[:1] in b"{[" and following and error.pos >= len(line.decode().rstrip()):
        which = "'.[]'" if line.startswith(b"[") else "."
        return (
            f"{name} spreads JSON over several lines. To have a line a request: jq -c {which} {_quoted(path)} > {_NEW}"
        )
    for delimiter in b",;\t":
        columns = line.count(delimiter)
        if (
            columns
            and not line.startswith(b"{")
            and (not following or abs(following[0].count(delimiter) - columns) < 3)
        ):
            return f"{name} looks like CSV, not JSON Lines. {_SHAPE}"
    return f"{where} is not JSON: {error.msg} at column {error.colno}. {_SHAPE}"


def _shown(path: str) -> str:
    return "stdin" if path == "-" else path


def _quoted(path: str) -> str:
    return "FILE" if path == "-" else shlex.quote(path)
