"""Where the value of a member stands in a line of JSON, so that it can be replaced and nothing else.

Lines must be valid JSON. Names are compared unescaped; of one that comes twice the last counts, at every level.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_VALUE = rb"\s*+:\s*+(%s|[^\"\[{\s,}\]]++)?" % _STRING  # its group is none where an array or object begins
_AFTER_NAME = re.compile(_VALUE, re.DOTALL)
_MEMBER = re.compile(rb"\s*+[{,]\s*+(%s)%s" % (_STRING, _VALUE), re.DOTALL)
_BRACKET = re.compile(rb"[^\"\[{}\]]*+(?:%s[^\"\[{}\]]*+)*+(?:([\[{])|[}\]])" % _STRING, re.DOTALL)
_ESCAPED_LETTER = re.compile(rb"\\u00[67]")


class Edit(NamedTuple):
    """What comes in the place of the bytes from `start` to `end`."""

    start: int
    end: int
    new: bytes


def edited(line: bytes, edits: Iterable[Edit]) -> bytes:
    """Returns the line with some spans of it replaced, which don't overlap."""
    for start, end, new in sorted(edits, reverse=True):
        line = line[:start] + new + line[end:]
    return line


def span(line: bytes, path: tuple[str, ...]) -> tuple[int, int] | None:
    """The start and end of the value at a path of object members; None where there is none.

    Takes time in proportion to the line, and no stack, however deep the line is nested.
    """
    found = 0, len(line)
    for name in path:
        places = [place for raw, place in _members(line, found[0]) if _unescaped(raw) == name]
        if not places:
            return None
        found = places[-1]
    return found


def first_string(data: bytes, name: str) -> str | None:
    """The first string that a member of the outer object has, of bytes that need not be JSON; None where there is none.

    What follows it is not looked at, so that a line that is cut off or damaged further on still says what it is about.
    """
    try:
        for raw, (start, end) in _members(data, 0):
            value = data[start:end]
            if raw == b'"%s"' % name.encode() and value.startswith(b'"'):
                return _unescaped(value)
    except ValueError:
        pass
    return None


def string_span(line: bytes, path: tuple[str, ...]) -> tuple[int, int] | None:
    """As `span`, and faster: for a string that the caller has read from there. The last name is of small letters."""
    name = b'"%s"' % path[-1].encode()
    if line.count(name) == 1 and written_plainly(line):
        value = _AFTER_NAME.match(line, line.index(name) + len(name))
        return value and value.span(1)
    return span(line, path)


def written_plainly(data: bytes) -> bool:
    """Tells that no name of small letters is written with escapes.

    Then a name that a line has stands there in quotes; and where these bytes occur but once, they are that name and no
    piece of another string.
    """
    return not _ESCAPED_LETTER.search(data)


def _members(line: bytes, at: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """The members of the object that stands at `at`, each with its name as it is written; none of any other value."""
    while member := _MEMBER.match(line, at):
        start, end = member.span(2)
        if start < 0:
            start, end = member.end(), _end(line, member.end())
        yield member[1], (start, end)
        at = end


def _end(line: bytes, start: int) -> int:
    """Where the array or object that starts at `start` ends."""
    depth = 0
    for bracket in _BRACKET.finditer(line, start):
        depth += 1 if bracket[1] else -1
        if not depth:
            return bracket.end()
    raise ValueError("This line is not valid JSON.")


def _unescaped(raw: bytes) -> str:
    return str(json.loads(raw.decode())) if b"\\" in raw else raw[1:-1].decode()
