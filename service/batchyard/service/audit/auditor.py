"""What the audit log says of a call: who asked for what, from where, of which ids, and how it ended.

Of what callers write it has ids and names of providers alone, and those only in the form that such have. A call gets a
record whatever becomes of it; so does a method that nobody has thought of here. Only of those whom no key lets in
there are so many records a minute: strangers must not fill the disk.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message

from batchyard.service.access.caller import current_caller, metadata_value
from batchyard.service.audit.log import AuditLog
from batchyard.service.errors import BatchyardError, Unauthenticated

CLIENT, SHIM = "batchyard-client", "batchyard-shim"
"""Metadata by which a shim says where its client is, and that it is the one that this service trusts."""
LOOKS = frozenset(
    {"GetBatch", "ListBatches", "WatchBatch", "GetFile", "ListFiles", "ListDeployments", "CheckHealth", "ListKeys"}
)
"""Methods that change nothing and give away no content."""
URGENT = frozenset({"RevokeKey"})
"""Methods that don't wait for the log: a leaked key must end even while that can't be written."""

_MINUTE = 60.0
_MOST_REFUSALS = 60  # a minute
_OK = grpc.StatusCode.OK.name
_ID = re.compile(r"(?!sk-)[A-Za-z0-9._:-]{1,256}")  # and no key that somebody mistook for one
_NO_ID = "(not an id)"
_FIELDS = {
    **dict.fromkeys(("file_id", "input_file_id", "output_file_id", "error_file_id", "File.id"), "files"),
    **dict.fromkeys(("batch_id", "Batch.id"), "batches"),
    **dict.fromkeys(("key_id", "Key.id"), "keys"),
    "deployment": "deployments",
    "provider": "providers",
    "tenant": "for_tenants",
}


class Auditor:
    """Keeps records of calls; unless `reads`, without those that looked at something and got it."""

    def __init__(
        self,
        log: AuditLog,
        *,
        reads: bool,
        shim_secret: str | None,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        """`steady` is a clock that never jumps."""
        self._log = log
        self._reads = reads
        self._secret = (shim_secret or "").encode()
        self._clock = clock
        self._steady = steady
        self._minute = steady()
        self._refusals: Counter[str] = Counter()
        self._left_out = 0

    async def entry(self, details: grpc.HandlerCallDetails) -> "Entry":
        """The record of a call that begins. Raises Unavailable where it must have one and none can be written."""
        method = details.method.rpartition("/")[2]
        look = not self._reads and method in LOOKS
        waits = not look and method not in URGENT
        if waits:
            await self._log.ready()
        shown = (metadata_value(details, SHIM) or "").encode()
        trusted = bool(self._secret) and compare_digest(shown, self._secret)
        return Entry(self, metadata_value(details, CLIENT) if trusted else None, look=look, waits=waits)

    def keep(self, record: dict[str, Any], *, refused: bool, spare: bool) -> None:
        """Leaves a record to the log, or counts it for the next one to tell.

        `refused`: no key let the caller in; `spare`: it is not worth memory while nothing can be written.
        """
        if (spare and self._log.behind) or (refused and self._beyond(record["key"])):
            self._left_out += 1
            return
        if self._left_out:
            record["left_out"], self._left_out = self._left_out, 0
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        self._log.append(json.dumps({"time": now.replace("+00:00", "Z"), **record}).encode() + b"\n")

    def _beyond(self, key: str) -> bool:
        """Counts a refusal of this minute. Each key that has ended has its own bound, so that strangers hide none."""
        if (now := self._steady()) - self._minute >= _MINUTE:
            self._minute = now
            self._refusals.clear()
        self._refusals[key] += 1
        return self._refusals[key] > _MOST_REFUSALS


class Entry:
    """The record of one call."""

    def __init__(self, auditor: Auditor, client: str | None, *, look: bool, waits: bool) -> None:
        """`client` is where the caller is, as a trusted shim says; none: the peer is the caller.

        A `look` has a record only if it didn't end well. Without `waits` nobody has asked whether the log has room.
        """
        self._auditor = auditor
        self._client = client
        self._look = look
        self._waits = waits
        self._ended = "none"
        self._touched: dict[str, list[str]] = {}

    def saw(self, message: object) -> None:
        """Notes what a request or an answer names."""
        for kind, value in _named(message) if isinstance(message, Message) else ():
            known = self._touched.setdefault(kind, [])
            shown = printable_id(value)
            if shown not in known:
                known.append(shown)

    def failed(self, error: BatchyardError) -> None:
        """Notes why the call failed: over which key, if one that has ended was shown."""
        if isinstance(error, Unauthenticated) and error.key:
            self._ended = error.key

    def write(self, *, method: str, request_id: str, peer: str, code: str, reason: str, seconds: float) -> None:
        """Leaves the record to the auditor, when the call has ended."""
        if self._look and code == _OK:
            return
        caller = current_caller.get(None)
        key = caller.key if caller else None
        where = {"peer": unquote(peer)} if self._client is None else {"peer": self._client, "via": "shim"}
        record = {
            "request_id": request_id,
            "method": method,
            "tenant": caller.tenant if caller else None,
            "key": key.id if key else caller.who if caller else self._ended,
            "key_name": key.name if key else None,
            **where,
            **self._touched,
            "code": code,
            "reason": reason or None,
            "duration_ms": round(seconds * 1000, 1),
        }
        self._auditor.keep(record, refused=caller is None, spare=not self._waits and code != _OK)


def printable_id(value: str) -> str:
    """The id that a caller wrote, unless it can't be one, or looks like a key."""
    return value if _ID.fullmatch(value) else _NO_ID


def _named(message: Message) -> Iterator[tuple[str, str]]:
    """What a message names, and the things in it; not the entries of a list."""
    fields: Iterable[tuple[Any, Any]] = message.ListFields()
    for field, value in fields:
        if isinstance(value, Message):
            yield from _named(value)
        elif isinstance(value, str) and value:
            kind = _FIELDS.get(f"{message.DESCRIPTOR.name}.id" if field.name == "id" else field.name)
            if kind:
                yield kind, value
