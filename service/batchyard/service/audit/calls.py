"""What the audit log says of a call: who asked for what, from where, of which ids, and how it ended.

Of what callers write it has ids and names of providers alone, and those only in the form that such have. A call gets a
record whatever becomes of it; so does a method that nobody has thought of here.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message

from batchyard.service.audit.log import AuditLog
from batchyard.service.auth import current_caller, metadata_value

CLIENT, SHIM = "batchyard-client", "batchyard-shim"
"""Metadata by which a shim says where its client is, and that it is the one that this service trusts."""
LOOKS = frozenset(
    {"GetBatch", "ListBatches", "WatchBatch", "GetFile", "ListFiles", "ListDeployments", "CheckHealth", "ListKeys"}
)
"""Methods that change nothing and give away no content."""

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
    """Keeps records of calls, without those that only look at something where `reads` says so."""

    def __init__(self, log: AuditLog, *, reads: bool, shim_secret: str | None, clock: Callable[[], float]) -> None:
        self._log = log
        self._reads = reads
        self._secret = (shim_secret or "").encode()
        self._clock = clock

    async def entry(self, details: grpc.HandlerCallDetails) -> "Entry | None":
        """The record of a call that begins, if it gets one. Raises Unavailable where none can be written."""
        if not self._reads and details.method.rpartition("/")[2] in LOOKS:
            return None
        await self._log.ready()
        shown = (metadata_value(details, SHIM) or "").encode()
        trusted = bool(self._secret) and compare_digest(shown, self._secret)
        return Entry(self._log, self._clock, metadata_value(details, CLIENT) if trusted else None)


class Entry:
    """The record of one call."""

    def __init__(self, log: AuditLog, clock: Callable[[], float], client: str | None) -> None:
        """`client` is where the caller is, as a trusted shim says; none: the peer is the caller."""
        self._log = log
        self._clock = clock
        self._client = client
        self._touched: dict[str, list[str]] = {}

    def saw(self, message: object) -> None:
        """Notes what a request or an answer names."""
        for kind, value in _named(message) if isinstance(message, Message) else ():
            known = self._touched.setdefault(kind, [])
            shown = value if _ID.fullmatch(value) else _NO_ID
            if shown not in known:
                known.append(shown)

    def write(self, *, method: str, request_id: str, peer: str, code: str, reason: str, seconds: float) -> None:
        """Leaves the record to the log, when the call has ended."""
        now, caller = datetime.fromtimestamp(self._clock(), UTC), current_caller.get(None)
        key = caller.key if caller else None
        where = {"peer": unquote(peer)} if self._client is None else {"peer": self._client, "via": "shim"}
        record = {
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": request_id,
            "method": method,
            "tenant": caller.tenant if caller else None,
            "key": key.id if key else "master" if caller else "none",
            "key_name": key.name if key else None,
            **where,
            **self._touched,
            "code": code,
            "reason": reason or None,
            "duration_ms": round(seconds * 1000, 1),
        }
        self._log.append(json.dumps(record).encode() + b"\n")


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
