"""What a provider says of an error, in whatever form it says it, cut to a length that fits wherever it goes.

Servers that speak OpenAI's API say it in many ways: OpenAI's own `{"error": {...}}`, the same without its envelope
(vLLM), a text in place of the object, FastAPI's `detail`, RFC 9457's `title` and `detail`, a list of errors, plain
text, or the page of a proxy before them.
"""

import re
from collections.abc import Iterable, Mapping
from html import unescape
from itertools import islice
from typing import Any, NamedTuple

from batchyard.service.upstream.provider_json import MOST_NUMBER, clean, decode, others

MOST_TEXT = 1000
"""Characters of a provider's text that are kept, in an error, in a batch, or in a line's result."""
MOST_WORD = 200
"""Characters of a provider's word for programs: a code, a type, the name of a parameter."""
_MOST_EXTRA = 2000  # bytes of members that we don't know
_MOST_LISTED = 10  # errors of a list that become one text
_MOST_DEPTH = 4  # of objects within each other that are looked into
_CUT = " [...] "
_TEXTS = ("message", "Message", "detail", "error_description", "description", "msg", "title", "reason")
_WITHIN = ("error", "detail", "message")
_READ = {"message", "type", "param", "code", "object", "statusCode", "error_description"}
_PAGE = re.compile(r"\s*<(?:!doctype|html|head|body|h1|title|center)\b", re.IGNORECASE)
_SAID = re.compile(r"<(title|h1)\b[^>]{0,200}>([^<]{1,500})", re.IGNORECASE)
_MOST_PAGE = 20_000  # characters in which a page's title is looked for


class ProviderError(NamedTuple):
    """The members of a provider's error, as far as it has them; `extra` are those that OpenAI's has not."""

    message: str
    type: str | None = None
    param: str | None = None
    code: Any = None
    extra: Mapping[str, Any] = {}


def cut_text(text: str, most: int = MOST_TEXT) -> str:
    """A provider's text in at most `most` characters: its beginning and its end, where it is longer."""
    if len(text) > most:
        room = (most - len(_CUT)) // 2
        text = text[:room] + _CUT + text[-room:]
    return clean(text)


def read_error(body: bytes, status: int) -> ProviderError:
    """What the body of an answer with an HTTP status that is an error says."""
    try:
        whole = decode(body)
    except ValueError:
        return ProviderError(_spoken(body, status))
    error = _innermost(whole)
    text = _text(whole if isinstance(whole, str) else error)
    if not isinstance(error, dict):
        return ProviderError(cut_text(text) if text else _silent(status))
    first = _first(error.get("errors"))
    code = error_code(error.get("code", first.get("code")))
    if code is None and "error_description" in error:  # OAuth's errors have their code here
        code = _word(error.get("error"))
    message = cut_text(text) if text else _silent(status, code if isinstance(code, str) else None)
    param = _word(error.get("param") or first.get("param")) or _place(_first(error.get("detail")))
    return ProviderError(message, _word(error.get("type") or first.get("type")), param, code, _extra(error))


def words(value: Any) -> str:
    """The words of a value that should be a text, or an error's object; empty where it has none."""
    return cut_text(_text(_innermost(value)))


def error_code(value: Any) -> Any:
    """A provider's code of an error: a text, cut, or a number that 64 bits hold; anything else is none."""
    if isinstance(value, str):
        return cut_text(value, MOST_WORD)
    return value if isinstance(value, int) and abs(value) < MOST_NUMBER and not isinstance(value, bool) else None


def _innermost(value: Any) -> Any:
    """The object that says most: within `error`, a list's first, or itself."""
    for _ in range(_MOST_DEPTH):
        if isinstance(value, list) and value and isinstance(value[0], dict) and "loc" not in value[0]:
            value = value[0]
        elif isinstance(value, dict) and (inner := _within(value)):
            value = inner
        else:
            break
    return value


def _within(value: Mapping[str, Any]) -> dict[str, Any] | None:
    names = _WITHIN[:1] if any(isinstance(value.get(name), str) for name in _TEXTS) else _WITHIN
    return next((value[name] for name in names if isinstance(value.get(name), dict) and value[name]), None)


def _text(value: Any, depth: int = _MOST_DEPTH) -> str:
    """The words of an error's value; empty where it has none."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and depth:
        return "; ".join(_one_each(value, depth))
    if not isinstance(value, dict) or not depth:
        return ""
    said = next((text for name in _TEXTS if (text := _text(value.get(name), depth - 1))), "")
    title = value.get("title")
    if said and isinstance(title, str) and title.strip() and "detail" in value and title.strip() not in said:
        return f"{title.strip()}: {said}"
    if said:
        place = _loc(value)
        return f"{place}: {said}" if place else said
    errors = value.get("errors")
    if isinstance(errors, dict):
        errors = [f"{name}: {_text(inner, depth - 1)}" for name, inner in islice(errors.items(), _MOST_LISTED)]
    return _text(value.get("error"), depth - 1) or _text(errors, depth - 1)


def _one_each(values: Iterable[Any], depth: int) -> Iterable[str]:
    return [text for value in islice(values, _MOST_LISTED) if (text := cut_text(_text(value, depth - 1)))]


def _loc(error: Mapping[str, Any]) -> str:
    """Where FastAPI found it: `body.input_file_id`."""
    steps = error.get("loc")
    if not isinstance(steps, list):
        return ""
    return ".".join(str(step)[:MOST_WORD] for step in steps[:_MOST_LISTED] if isinstance(step, str | int))[:MOST_WORD]


def _first(listed: Any) -> Mapping[str, Any]:
    return listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}


def _place(error: Mapping[str, Any]) -> str | None:
    """The parameter that an error of FastAPI's is about."""
    return clean(_loc(error)).removeprefix("body.") or None


def _extra(error: Mapping[str, Any]) -> dict[str, Any]:
    known = _READ | {name for name in ("error", "detail", "title", "errors", "Message", "msg") if name in error}
    return others(error, known, _MOST_EXTRA)


def _spoken(body: bytes, status: int) -> str:
    """What a body says that is no JSON: its words, or the title of a page."""
    try:
        text = body[: 4 * _MOST_PAGE].decode("utf-8", "strict" if len(body) <= 4 * _MOST_PAGE else "ignore")
    except UnicodeDecodeError:
        text = body[:_MOST_PAGE].decode("latin-1") if _PAGE.match(body[:100].decode("latin-1")) else ""
    text = text[:_MOST_PAGE].lstrip("\ufeff")
    if _PAGE.match(text):
        said = _SAID.search(text)
        return _silent(status, " ".join(unescape(said[2]).split()) if said else None)
    words = " ".join(text.split())
    return cut_text(words) if words.isprintable() and any(map(str.isalpha, words)) else _silent(status)


def _silent(status: int, word: str | None = None) -> str:
    """What is said for a provider whose error has no words of its own, but perhaps a code or a title."""
    return f"The provider answered with HTTP status {status}" + (f": {cut_text(word, MOST_WORD)}" if word else ".")


def _word(value: Any) -> str | None:
    return cut_text(value, MOST_WORD) if isinstance(value, str) and value else None
