"""One value of the settings, as it was written, to the type that a field's annotation asks for."""

import os
import re
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin
from urllib.parse import urlsplit

from batchyard.common.sockets import MOST_BYTES
from batchyard.service.config.types import Bounds, TextFormat

Value: TypeAlias = bool | int | float | str | Path | tuple[str, ...]
_HIGHEST = (1 << 63) - 1  # what a database and a message can hold
_SECRET_LENGTH = 16
_KEY_BEGINS = re.compile("(?<![A-Za-z])sk-")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class UnfitError(Exception):
    """The value doesn't fit; the text says what was expected, and never shows a value that could be secret."""


def parse(hint: Any, value: object, *, hidden: bool = False) -> Value:
    """Reads `value` as `hint` asks. A number or a truth value may come as text: variables do.

    Raises UnfitError. `hidden` keeps the value out of its text.
    """
    kind, form = _taken_apart(hint)
    try:
        parsed: Value = _PARSERS[kind](value, form)
    except UnfitError as unfit:
        shown = "" if hidden or form in _QUIET else f", got {_shown(value)}"
        raise UnfitError(f"expected {unfit}{shown}") from None
    return parsed


_QUIET = (TextFormat.SECRET, TextFormat.HTTP_URL, TextFormat.DATABASE_URL)


def _taken_apart(hint: Any) -> tuple[Any, Any]:
    """`Annotated[str | None, Form.SECRET]` to (str, Form.SECRET); a Literal to (Literal, its words)."""
    form = None
    if get_origin(hint) is Annotated:
        hint, form = get_args(hint)
    if get_origin(hint) is Literal:
        return Literal, get_args(hint)
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return (kinds[0] if kinds else hint), form


def begins_a_key(text: str) -> bool:
    """Whether the usual beginning of a key is in a text."""
    return bool(_KEY_BEGINS.search(text))


def may_be_secret(text: str) -> bool:
    """Whether a text looks like a key that was written in a wrong place."""
    mixed = any(map(str.isalpha, text)) and any(map(str.isdigit, text))
    return begins_a_key(text) or (mixed and len(text) >= _SECRET_LENGTH and " " not in text)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "keys with values"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"
    if isinstance(value, str) and may_be_secret(value):
        return "a text that may be a secret"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 42 else text[:39] + "..."


def _number(value: object, kind: type[int] | type[float]) -> int | float | None:
    """The number, or None for what isn't one. A truth value isn't, though Python counts it as an int."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if kind is int and isinstance(value, float):
        return None
    try:
        return kind(value)
    except (ValueError, OverflowError):
        return None


def _within(value: object, kind: type[int] | type[float], bounds: Bounds, name: str) -> int | float:
    number = _number(value, kind)
    high = _HIGHEST if bounds.high is None else bounds.high
    if number is None or not bounds.low <= number <= high:
        reach = f"of at least {bounds.low}" if bounds.high is None else f"from {bounds.low} to {bounds.high}"
        raise UnfitError(f"{name} {reach}")
    return number


def _integer(value: object, bounds: Bounds) -> int:
    return int(_within(value, int, bounds, "an integer"))


def _float(value: object, bounds: Bounds) -> float:
    return float(_within(value, float, bounds, "a number"))


def _bool(value: object, _: None) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    raise UnfitError("true or false")


def _choice(value: object, words: tuple[str, ...]) -> str:
    if value not in words:
        raise UnfitError("one of " + ", ".join(words))
    return str(value)


def _path(value: object, form: TextFormat | None) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise UnfitError("a path")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise UnfitError("a path, in the home directory of a user of this machine") from None
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise UnfitError("a path") from None
    if form is TextFormat.SOCKET and len(encoded) > MOST_BYTES:
        raise UnfitError(f"a path of at most {MOST_BYTES} bytes, for a socket")
    return path


def _text(value: object, form: TextFormat | None) -> str:
    if not isinstance(value, str):
        raise UnfitError("a text (put it in quotes if it looks like something else)")
    if not value.strip() or not value.isprintable():
        raise UnfitError("a text that isn't empty, without control characters")
    if form is not None:
        _FORMS[form](value)
    return value


def _words(value: object, _: None) -> tuple[str, ...]:
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
    if isinstance(words, list) and words and all(isinstance(word, str) and word for word in words):
        return tuple(words)
    raise UnfitError("a list of texts (in a variable: with commas between them)")


def _secret(text: str) -> None:
    # What a client can send as a bearer key, and an HTTP header can hold.
    if not all("!" <= character <= "~" for character in text):
        raise UnfitError("a key of visible ASCII characters, without spaces")


def _http_url(text: str) -> None:
    expected = "an http:// or https:// URL without credentials, query or fragment"
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        raise UnfitError(expected) from None
    spaced = any(character <= " " or character == "\x7f" for character in text)
    if not good or spaced or "@" in url.netloc or "?" in text or "#" in text:
        raise UnfitError(expected)


def _database_url(text: str) -> None:
    if not text.startswith("sqlite:///") or text == "sqlite:///":
        raise UnfitError("sqlite:///PATH; no other database is supported")


def _address(text: str) -> None:
    host, _, port = text.rpartition(":")
    numbered = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if not (re.fullmatch(r"unix:[^:?#%]+", text) or (host and "/" not in host and numbered)):
        raise UnfitError("HOST:PORT or unix:PATH")


_FORMS = {
    TextFormat.SECRET: _secret,
    TextFormat.HTTP_URL: _http_url,
    TextFormat.DATABASE_URL: _database_url,
    TextFormat.ADDRESS: _address,
}
_PARSERS: dict[Any, Any] = {
    bool: _bool,
    int: _integer,
    float: _float,
    str: _text,
    tuple[str, ...]: _words,
    Path: _path,
    Literal: _choice,
}
