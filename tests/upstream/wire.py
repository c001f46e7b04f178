"""Objects as they go out: what a provider tells, in the form that the quirks give it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tests.upstream.quirks import Quirks
from tests.upstream.refusals import Json

_UNKNOWN: Json = {"service_tier": "batch", "nested": {"a": [1, None]}}


def file_wire(description: Json, quirks: Quirks) -> Json:
    return _more(description, quirks)


def batch_wire(batch: Json, quirks: Quirks) -> Json:
    """A batch as it goes out."""
    wire = _more(batch, quirks)
    if wire["errors"]:
        wire["errors"] = {**wire["errors"], "data": [_error_wire(one, quirks) for one in wire["errors"]["data"]]}
    if "usage" in wire:
        wire["usage"] = _more(wire["usage"], quirks)
    if quirks.endpoint_prefix_dropped:
        wire["endpoint"] = wire["endpoint"].removeprefix("/v1")
    if quirks.endpoint_null:
        wire["endpoint"] = None
    if quirks.endpoint_empty and wire["status"] == "validating":
        wire["endpoint"] = ""
    if quirks.empty_ids:
        wire.update({name: wire[name] or "" for name in ("output_file_id", "error_file_id")})
    if quirks.null_counts and wire["status"] in {"validating", "in_progress", "paused", "failed"}:
        wire["request_counts"] = None
    if quirks.iso_times:
        wire.update({name: _iso(value) for name, value in wire.items() if name.endswith("_at") and value is not None})
    if quirks.cased_status:
        wire["status"] = wire["status"].capitalize()
    return wire


def list_wire(items: Sequence[Json], more: bool, quirks: Quirks, *, key: str = "data") -> Json:
    """A list's envelope."""
    wire: Json = {"object": "list", key: list(items)}
    if quirks.list_without_more:
        return wire
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {**wire, **ends, "has_more": more}


def error_wire(error: Json, quirks: Quirks) -> Json:
    return {"error": _more(error, quirks)}


def _error_wire(error: Json, quirks: Quirks) -> Json:
    wire = _more(error, quirks)
    if quirks.lines_as_text and wire["line"] is not None:
        wire["line"] = str(wire["line"])
    return wire


def _more(members: Json, quirks: Quirks) -> Json:
    return {**members, **_UNKNOWN} if quirks.extra_members else dict(members)


def _iso(seconds: Any) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.0000000+00:00")
