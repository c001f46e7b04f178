"""Every field of a provider's files and batches, as OpenAI's API has it, whatever the provider makes of it.

Each is read by itself: one of an odd type or size becomes null, or 0 for a count, and hides none of the others. What is
left fits a column of the registry and a message of the contract. Members that we don't know are kept as they are.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from batchyard.service.domain.records import Status
from batchyard.service.upstream.errors_text import MOST_WORD, cut_text, error_code, words
from batchyard.service.upstream.provider_json import clean, json_size, others

Members = Mapping[str, Any]

TIMES = (
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
COUNTS = ("total", "completed", "failed")
MOST_COUNT = 1 << 50
"""Lines, tokens and bytes from this on are none: sums over many rows have to fit 64 bits."""
MOST_ID = 1024
"""Characters of an id; a longer one can't be asked for in a path that every server takes."""
_LAST_SECOND = 7_258_118_400  # the year 2200; what is beyond it stands for never, or is no time
_UNITS = ((10**11, 1), (10**14, 1_000), (10**17, 1_000_000), (10**20, 1_000_000_000))
_MOST_ERRORS = 1000  # of a batch, so that it fits a message
_MOST_ERRORS_BYTES = 1 << 20
_MOST_METADATA, _MOST_KEY, _MOST_VALUE = 64, 256, 1024  # beyond what OpenAI takes; others may take more
_MOST_OTHERS = 64 << 10  # bytes of members that we don't know
_MOST_ERROR_OTHERS = 1 << 10
_STATUSES = frozenset(Status)
_SPELLINGS = {"canceled": "cancelled", "canceling": "cancelling"}


def identifier(value: Any) -> str:
    """An id exactly as the provider has it; a number in its digits. Empty for what can't stand in a path."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_COUNT:
        return str(value)
    usable = isinstance(value, str) and value.strip() and len(value) <= MOST_ID and value not in {".", ".."}
    return value if usable and clean(value) == value else ""


def count(value: Any) -> int:
    """A count or a size: a number, or its digits as a text. 0 for anything else, and for what is below it."""
    if type(value) is int and 0 <= value < MOST_COUNT:
        return value
    number = _number(value)
    return int(number) if number is not None and 0 <= number < MOST_COUNT else 0


def seconds(value: Any) -> int | None:
    """A time in Unix seconds: from seconds, from smaller units by their size, from ISO 8601 or an HTTP date."""
    if value is None or (type(value) is int and 0 < value < _LAST_SECOND):
        return value
    number = _number(value)
    if number is None and isinstance(value, str):
        number = _of_date(value[:64].strip())
    if number is None:
        return None
    unit = next((unit for most, unit in _UNITS if number < most), None)
    found = int(number / unit) if unit else 0
    return found if 0 < found <= _LAST_SECOND else None


def status(value: Any) -> str:
    """A status in OpenAI's spelling: `InProgress` and `in-progress` are `in_progress`. Empty for what is no text."""
    if not isinstance(value, str) or value in _STATUSES:
        return value if isinstance(value, str) else ""
    word = re.sub("(?<=[a-z])(?=[A-Z])", "_", value.strip()[:MOST_WORD]).lower().replace("-", "_").replace(" ", "_")
    return clean(_SPELLINGS.get(word, word))


def metadata(value: Any) -> dict[str, str] | None:
    """A caller's labels: texts, and what else there is in JSON."""
    if not isinstance(value, dict):
        return None
    found = {}
    for name, label in list(value.items())[:_MOST_METADATA]:
        if label is not None:
            found[cut_text(name, _MOST_KEY)] = cut_text(label if isinstance(label, str) else _json(label), _MOST_VALUE)
    return found or None


def batch(members: Members) -> dict[str, Any]:
    """A batch's members, those that it has, in OpenAI's form."""
    return _read(members, _BATCH)


def file(members: Members) -> dict[str, Any]:
    """A file's members, those that it has, in OpenAI's form."""
    return _read(members, _FILE)


def is_kind(members: Members, kind: str) -> bool:
    """Whether an object can be one of a `kind`, "batch" or "file": no server says that it is another, or it is one."""
    named = members.get("object")
    return not isinstance(named, str) or (named.lower().startswith(kind) and not named.lower().endswith("deleted"))


def _read(members: Members, readers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    known = {name: read(members[name]) for name, read in readers.items() if name in members}
    return others(members, readers, _MOST_OTHERS) | known


def _number(value: Any) -> float | None:
    """A number that is finite, from one or from its digits."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,20}(\.[0-9]{1,9})?\s*", value):
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 10**20 else None  # NaN is not


def _of_date(text: str) -> float | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = read(text)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, TypeError):
            continue
    return None


def _text(value: Any) -> str | None:
    return cut_text(value) if isinstance(value, str) else None


def _word(value: Any) -> str | None:
    return cut_text(value, MOST_WORD) if isinstance(value, str) else None


def _id(value: Any) -> str | None:
    return identifier(value) or None


def _details(value: Any) -> str | None:
    return words(value) or None


def _counts(value: Any) -> dict[str, Any] | None:
    return _numbers(value, COUNTS)


def _usage(value: Any) -> dict[str, Any] | None:
    found = _numbers(value, ("input_tokens", "output_tokens", "total_tokens"))
    if found is None:
        return None
    for name, inner in (("input_tokens_details", "cached_tokens"), ("output_tokens_details", "reasoning_tokens")):
        if name in found:
            found[name] = _numbers(found[name], (inner,))
    return found


def _numbers(value: Any, names: tuple[str, ...]) -> dict[str, Any] | None:
    return _read(value, dict.fromkeys(names, count)) if isinstance(value, dict) else None


def _errors(value: Any) -> dict[str, Any] | None:
    """A list of errors, from one, from a list alone, or from one error alone."""
    whole = value if isinstance(value, dict) and isinstance(value.get("data"), list) else {}
    listed = whole.get("data", value if isinstance(value, list) else [value])
    found, left = [], _MOST_ERRORS_BYTES
    for error in (_error(one) for one in listed[:_MOST_ERRORS] if one and isinstance(one, dict | str)):
        left -= json_size(error)
        if left < 0:
            break
        found.append(error)
    return {**others(whole, {"data"}, _MOST_OTHERS), "object": "list", "data": found} if found or whole else None


def _error(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"message": cut_text(value)}
    known: dict[str, Any] = {"message": words({name: value[name] for name in value if name != "code"})}
    known["code"] = str(code) if (code := error_code(value.get("code"))) is not None else None
    known["line"] = count(value.get("line")) or None
    known["param"] = _word(value.get("param")) or None
    kept = {name: read for name, read in known.items() if name in value or name == "message"}
    return others(value, known, _MOST_ERROR_OTHERS) | kept


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (ValueError, OverflowError, RecursionError):
        return ""


_BATCH: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("id", "input_file_id", "output_file_id", "error_file_id"), _id),
    **dict.fromkeys(("object", "endpoint", "model", "completion_window"), _word),
    **dict.fromkeys(TIMES, seconds),
    "status": status,
    "errors": _errors,
    "request_counts": _counts,
    "usage": _usage,
    "metadata": metadata,
}
_FILE: Mapping[str, Callable[[Any], Any]] = {
    "id": _id,
    **dict.fromkeys(("object", "purpose"), _word),
    "filename": _text,
    "bytes": count,
    **dict.fromkeys(("created_at", "expires_at"), seconds),
    "status": status,
    "status_details": _details,
}
