"""JSON that a provider sent, as values that every later step can hold, store and send on."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

MOST_DEPTH = 32
"""Levels of lists and objects that are kept of a value; what lies deeper becomes null."""
MOST_NODES = 500_000
"""Members and elements of one text, all levels together: each takes a hundred bytes where its text has three."""
MOST_NUMBER = 1 << 63
"""Integers from this on, and from its negative down, become null: no column and no message has room for them."""


def decode(body: bytes) -> Any:
    """The value of a JSON text. Numbers that nothing can hold become null. Raises ValueError.

    One member that no parser likes must not cost all that comes with it, so a strict parser is followed by one that
    takes a leading BOM, halves of surrogate pairs, NaN, and numbers of any length.
    """
    if len(body) > MOST_NODES and body.count(b",") > MOST_NODES:
        raise ValueError("too many members")
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(body, parse_int=_integer, parse_float=_decimal, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def plain(value: Any, depth: int = MOST_DEPTH) -> Any:
    """The value without what can't be stored or sent: numbers beyond 64 bits, surrogates, deep levels."""
    match value:
        case str():
            return clean(value)
        case bool():
            return value
        case int() | float():
            return value if abs(value) < (MOST_NUMBER if isinstance(value, int) else float("inf")) else None
        case dict() if depth:
            return {clean(str(name)): plain(inner, depth - 1) for name, inner in value.items()}
        case list() if depth:
            return [plain(inner, depth - 1) for inner in value]
    return None


def clean(text: str) -> str:
    """The text in valid Unicode: half of a surrogate pair becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def others(members: Mapping[str, Any], known: Collection[str], most: int) -> dict[str, Any]:
    """The members that are not `known`, as far as all that come to no more than `most` bytes of JSON."""
    found: dict[str, Any] = {}
    for name in [name for name in members if name not in known]:
        size = json_size(members[name]) + len(name)
        if size <= most:
            found[clean(name)] = plain(members[name])
            most -= size
    return found


def json_size(value: Any) -> int:
    """Bytes of a value as JSON; more than any bound where it has no such form."""
    try:
        return len(msgspec.json.encode(value))
    except (ValueError, OverflowError, RecursionError):
        return MOST_NUMBER


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= len(str(MOST_NUMBER)) + 1 else None


def _decimal(digits: str) -> float | None:
    found = float(digits)
    return found if abs(found) < float("inf") else None
