"""Members of JSON that nobody here knows: what is passed on of them is small, and walked without recursion."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST_BYTES = 65536
"""All such members of a request, written as JSON."""
MOST_VALUES = 1000
"""Members, and elements of arrays, at all levels together."""
MOST_DEPTH = 32
"""Arrays and objects inside each other, the one with the members included."""

TOO_DEEP = f"nested too deeply. Expected at most {MOST_DEPTH} levels."
_TOO_LARGE = f"too large. Expected at most {MOST_BYTES} bytes of members that are not known here, in all."
_TOO_MANY = f"too many values. Expected at most {MOST_VALUES} members and elements that are not known here, in all."

_TOKEN = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")|([\[{])|[\]}]', re.DOTALL)


class MembersError(Exception):
    """Members that are too many, or nested too deeply: `name` is the outermost one, `problem` says what is expected."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"'{name}': {problem}")
        self.name = name
        self.problem = problem


def names_of(members: Mapping[str, Any]) -> Iterator[str]:
    """Every member's name, outer levels first. Raises MembersError as soon as a bound is passed."""
    left = MOST_VALUES - len(members)
    if left < 0:
        raise MembersError(next(iter(members)), _TOO_MANY)
    yield from members
    level = list(members.items())
    for _ in range(MOST_DEPTH - 1):
        below: list[tuple[str, Any]] = []
        for outermost, value in level:
            inner = _inside(value)
            left -= len(inner)
            if left < 0:
                raise MembersError(outermost, _TOO_MANY)
            below += [(outermost, one) for one in inner]
            if isinstance(value, dict):
                yield from value
        level = below
    for outermost, value in level:
        if isinstance(value, dict | list):
            raise MembersError(outermost, TOO_DEEP)


def is_deeper(value: Any, most: int) -> bool:
    """Whether more than `most` arrays and objects are inside each other."""
    level = [value]
    for _ in range(most):
        level = [one for outer in level for one in _inside(outer)]
    return any(isinstance(one, dict | list) for one in level)


def deep_member(raw: bytes) -> str:
    """The member of a JSON object in which more than MOST_DEPTH arrays and objects are inside each other, or empty.

    Takes no stack, and any bytes.
    """
    depth, name = 0, b'""'
    for token in _TOKEN.finditer(raw):
        if not token[1]:
            depth += 1 if token[2] else -1
        elif depth == 1:
            name = token[1]
        if depth > MOST_DEPTH:
            break
    try:
        return str(json.loads(name)) if depth > MOST_DEPTH else ""
    except ValueError:
        return ""


def written(members: Mapping[str, Any]) -> bytes:
    """A caller's members as JSON. Raises MembersError where a bound is passed, or a value can't be written."""
    for _ in names_of(members):
        pass
    sizes = {name: _size(name, value) for name, value in members.items()}
    if sum(sizes.values()) > MOST_BYTES:
        raise MembersError(max(sizes, key=sizes.__getitem__), _TOO_LARGE)
    return _dump(members)


def writable(members: Mapping[str, Any]) -> bytes:
    """A provider's members as JSON; those that can't be written, or are nested too deeply, are left out."""
    try:
        raw = _dump(members)
        if raw.count(b"[") + raw.count(b"{") <= MOST_DEPTH:  # so none is nested too deeply
            return raw
    except (ValueError, RecursionError):
        pass
    return _dump({name: value for name, value in members.items() if _is_writable(name, value)})


def _size(name: str, value: Any) -> int:
    try:
        return len(_dump({name: value}))
    except UnicodeError:
        raise MembersError(name, "not valid Unicode.") from None
    except ValueError:
        raise MembersError(name, "a number is out of range.") from None


def _is_writable(name: str, value: Any) -> bool:
    try:
        return not is_deeper(value, MOST_DEPTH - 1) and bool(_dump({name: value}))
    except ValueError:
        return False


def _dump(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
