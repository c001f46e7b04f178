"""What a deployment says of a file or a batch, in OpenAI's form, as columns of the registry.

The registry keeps it whole, so that members that we don't know reach callers; the columns are what we look for.
"""

from collections.abc import Mapping
from typing import Any

from batchyard.service.providers.own import WINDOW_SECONDS
from batchyard.service.registry.records import ENDED

MARK = "batchyard_intent"
"""The key of a batch's metadata by which a creation whose answer was lost is found again; callers never see it."""
_TIMES = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
_MOST_ERRORS = 1000  # of a batch, so that it fits a message

Members = Mapping[str, Any]


def native_id(members: Members) -> str:
    """The id of what was made; empty where the answer has none that could stand in a path."""
    found = members.get("id")
    return found if isinstance(found, str) and is_id(found) else ""


def is_id(text: str) -> bool:
    """Whether a text can be a provider's id: `[A-Za-z0-9._:-]{1,256}`, and no step in a path."""
    plain = text.replace(".", "").replace("_", "").replace(":", "").replace("-", "")
    return 0 < len(text) <= 256 and plain.isascii() and plain.isalnum()


def file_values(members: Members, provider: str, now: int) -> dict[str, Any]:
    """Columns of `files`."""
    return {
        "provider": provider,
        "purpose": _text(members, "purpose"),
        "filename": _text(members, "filename"),
        "bytes": _number(members, "bytes") or 0,
        "created_at": _number(members, "created_at") or now,
        "expires_at": _number(members, "expires_at"),
        "status": _text(members, "status") or "processed",
        "status_details": _text(members, "status_details") or None,
        "upstream": dict(members),
        "observed_at": now,
    }


def unseen_result(native_id: str, batch_id: str, column: str, provider: str, now: int) -> dict[str, Any]:
    """Columns of a result file that has been named and not yet described."""
    kind = column.removesuffix("_file_id")
    return {
        "native_id": native_id,
        "provider": provider,
        "purpose": "batch_output",
        "filename": f"{batch_id}_{kind}.jsonl",
        "bytes": 0,
        "created_at": now,
        "status": "processed",
    }


def batch_values(members: Members, now: int) -> dict[str, Any]:
    """Columns of `batches` that change in a batch's life; its metadata come without our mark."""
    counts, usage = _object(members, "request_counts"), _object(members, "usage")
    read, written = _object(usage, "input_tokens_details"), _object(usage, "output_tokens_details")
    created_at = _number(members, "created_at") or now
    metadata = {key: value for key, value in _object(members, "metadata").items() if key != MARK}
    errors = _object(members, "errors")
    kept: dict[str, Any] = {**members, "metadata": metadata or None}
    if isinstance(errors.get("data"), list):
        kept["errors"] = {**errors, "data": errors["data"][:_MOST_ERRORS]}
    return {
        "status": _text(members, "status"),
        "model": _text(members, "model") or None,
        "created_at": created_at,
        "expires_at": _number(members, "expires_at") or created_at + WINDOW_SECONDS,
        **{name: _number(members, name) for name in _TIMES},
        **{name: _number(counts, name) or 0 for name in ("total", "completed", "failed")},
        "input_tokens": _number(usage, "input_tokens") or 0,
        "cached_tokens": _number(read, "cached_tokens") or 0,
        "output_tokens": _number(usage, "output_tokens") or 0,
        "reasoning_tokens": _number(written, "reasoning_tokens") or 0,
        "upstream": kept,
        "observed_at": now,
    }


def unfinished(values: dict[str, Any]) -> dict[str, Any]:
    """Columns of a batch that is registered before its result files are: ended rows are final."""
    named = any(values["upstream"].get(name) for name in ("output_file_id", "error_file_id"))
    if values["status"] not in ENDED or not named:
        return values
    fresh: dict[str, Any] = {"status": "validating", **dict.fromkeys(_TIMES)}
    return values | fresh | {"upstream": values["upstream"] | fresh}


def adopted_values(members: Members, provider: str, now: int) -> dict[str, Any]:
    """All columns of a batch that was made without us."""
    return {
        **batch_values(members, now),
        "provider": provider,
        "endpoint": _text(members, "endpoint"),
        "input_file_id": _text(members, "input_file_id"),
        "completion_window": _text(members, "completion_window"),
        "metadata": {},
        "output_seconds": 0,
    }


def _text(members: Members, name: str) -> str:
    value = members.get(name)
    return value if isinstance(value, str) else ""


def _number(members: Members, name: str) -> int | None:
    value = members.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62 else None


def _object(members: Members, name: str) -> Members:
    value = members.get(name)
    return value if isinstance(value, dict) else {}
