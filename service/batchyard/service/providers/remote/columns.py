"""What a deployment says of a file or a batch, in OpenAI's form as `fields` reads it, as columns of the registry.

The registry keeps it whole, so that members that we don't know reach callers; the columns are what we look for.
"""

from collections.abc import Mapping
from typing import Any

from batchyard.service.domain.names import WINDOW_SECONDS
from batchyard.service.domain.records import ENDED, BatchRecord, FileRecord
from batchyard.service.providers.remote.fields import COUNTS, TIMES

MARK = "batchyard_intent"
"""The key of a batch's metadata by which a creation whose answer was lost is found again; callers never see it."""
_ENDS = ("completed_at", "failed_at", "expired_at", "cancelled_at")
_RESULTS_SECONDS = 60  # after its end, in which a batch's results are waited for
_MOVES = tuple(name for name in TIMES if name not in {"created_at", "expires_at"})

Members = Mapping[str, Any]


def file_values(members: Members, provider: str, now: int, known: FileRecord | None = None) -> dict[str, Any]:
    """Columns of `files`. `known` is what the registry has of it already."""
    created_at = members.get("created_at") or (known.created_at if known else now)
    status = members.get("status") or "processed"
    return {
        "provider": provider,
        "purpose": members.get("purpose") or "",
        "filename": members.get("filename") or "",
        "bytes": members.get("bytes") or 0,
        "created_at": created_at,
        "expires_at": members.get("expires_at"),
        "status": status,
        "status_details": members.get("status_details"),
        "upstream": {**members, "created_at": created_at, "status": status},
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


def batch_values(members: Members, now: int, known: BatchRecord | None = None) -> dict[str, Any]:
    """Columns of `batches` that change in a batch's life; its metadata come without our mark.

    `known` is what the registry has of it already: a time that the deployment does not tell stays as it was.
    """
    counts, usage = members.get("request_counts") or {}, members.get("usage") or {}
    read, written = usage.get("input_tokens_details") or {}, usage.get("output_tokens_details") or {}
    created_at = members.get("created_at") or (known.created_at if known else now)
    expires_at = members.get("expires_at") or (known.expires_at if known else created_at + WINDOW_SECONDS)
    status = members.get("status") or "validating"
    metadata = {key: value for key, value in (members.get("metadata") or {}).items() if key != MARK}
    return {
        "status": status,
        "model": members.get("model") or None,
        "created_at": created_at,
        "expires_at": expires_at,
        **{name: members.get(name) for name in _MOVES},
        **{name: counts.get(name, 0) for name in COUNTS},
        "input_tokens": usage.get("input_tokens", 0),
        "cached_tokens": read.get("cached_tokens", 0),
        "output_tokens": usage.get("output_tokens", 0),
        "reasoning_tokens": written.get("reasoning_tokens", 0),
        "upstream": {**members, "status": status, "created_at": created_at, "metadata": metadata or None},
        "observed_at": now,
    }


def unfinished(values: dict[str, Any]) -> dict[str, Any]:
    """Columns of a batch that is registered before its result files are: ended rows are final."""
    named = any(values["upstream"].get(name) for name in ("output_file_id", "error_file_id"))
    if values["status"] not in ENDED or not (named or _lacks_results(values)):
        return values
    return _changed(values, {"status": "validating", **dict.fromkeys(_MOVES)})


def settled(values: dict[str, Any], status: str) -> dict[str, Any]:
    """Columns of a batch whose end counts as soon as its results are named; `status` is what it was before.

    Some servers say that a batch has completed a moment before they say where its results are. Not for ever: they may
    have been removed since.
    """
    return _changed(values, {"status": status, **dict.fromkeys(_ENDS)}) if _lacks_results(values) else values


def _lacks_results(values: Mapping[str, Any]) -> bool:
    """Whether a batch has just ended with results that it counts and does not name."""
    of = values["upstream"]
    output, error = of.get("output_file_id"), of.get("error_file_id")
    if values["status"] not in ENDED or of.get("output_blob") or of.get("input_blob"):
        return False
    unnamed = (values["completed"] and not output) or (values["failed"] and not (output or error))
    ended_at = max(values[name] or 0 for name in _ENDS)
    return bool(unnamed) and abs(values["observed_at"] - ended_at) < _RESULTS_SECONDS


def _changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return values | changes | {"upstream": values["upstream"] | changes}


def adopted_values(members: Members, provider: str, now: int) -> dict[str, Any]:
    """All columns of a batch that was made without us."""
    return {
        **batch_values(members, now),
        "provider": provider,
        **{name: members.get(name) or "" for name in ("endpoint", "input_file_id", "completion_window")},
        "metadata": {},
        "output_seconds": 0,
    }
