"""What a deployment's refusal of a shard, or the failure of one that it took, means for shard and member."""

import re
from collections.abc import Mapping
from typing import Any

from batchyard.service.domain.records import BatchRecord
from batchyard.service.errors import BatchyardError, Refused, Unusable
from batchyard.service.jsonl.results import Failure
from batchyard.service.upstream.transport import retry_after

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
QUOTA = "token_limit_exceeded"
_QUOTA_WORDS = "enqueued token"
_SOON = {"rate_limit_exceeded", "internal_error", "server_error", "service_unavailable"}
"""Failures of a whole batch that are nobody's fault but the deployment's, and may pass."""
_DEPLOYMENTS_OWN = {"model_not_found"}
"""What is said of lines and is no fault of theirs."""
_OURS = {400, 413, 415, 422}
"""HTTP statuses of what is wrong with a request; others are the deployment's own, or its configuration's."""


class ShardRequeued(Exception):
    """A shard of which nothing came has to go elsewhere, or be tried again later.

    `full`: its member has too many tokens enqueued; `unfit`: its member will never take it; `unasked`: its member was
    not asked at all; `hint`: seconds to wait. `logged` is said in the log instead of `why`, which may quote a prompt
    where it is a provider's.
    """

    def __init__(
        self,
        why: str,
        *,
        full: bool = False,
        unfit: bool = False,
        unasked: bool = False,
        hint: float | None = None,
        logged: str = "",
    ) -> None:
        super().__init__(logged or why)
        self.why = why
        self.logged = logged or why
        self.full = full
        self.unfit = unfit
        self.unasked = unasked
        self.hint = hint


def refusal(error: BatchyardError) -> ShardRequeued:
    """What the refusal of an upload or of a creation means, of which it is sure that it made no batch."""
    if isinstance(error, Unusable):  # it would answer the next one likewise, and keep that too
        return ShardRequeued(error.message, unfit=True)
    if not isinstance(error, Refused):  # it could not be reached, or was too slow
        return ShardRequeued(error.message)
    status = error.upstream.http_status
    if is_quota(error.code, error.message):
        return ShardRequeued(f"{QUOTA}: {error.message}", full=True, logged=QUOTA)
    hint, logged = retry_after(error.upstream.headers), _logged(error)
    return ShardRequeued(error.message, unfit=status in _OURS, hint=hint, logged=logged)


def failure(shard: BatchRecord) -> ShardRequeued | None:
    """What the failure of a batch means of which no line ran; None: that its lines have failed for good."""
    errors = listed_errors(shard)
    wrong = any(error.get("line") and error.get("code") not in _DEPLOYMENTS_OWN for error in errors)
    if shard.completed or shard.failed or wrong:
        return None
    first = errors[0] if errors else {}
    code, message = str(first.get("code") or "failed"), str(first.get("message") or "The provider says not why.")
    if is_quota(code, message):
        return ShardRequeued(f"{QUOTA}: {message}", full=True, logged=QUOTA)
    return ShardRequeued(f"{code}: {message}", unfit=code not in _SOON, logged=_word(code))


def _logged(error: Refused) -> str:
    """What the log says of a refusal: ours where nothing was answered, else the status and the provider's word."""
    status = error.upstream.http_status
    return f"HTTP status {status} {_word(error.code)}".rstrip() if status >= 400 else error.message


def _word(code: Any) -> str:
    """A code that is one, rather than a text."""
    return str(code) if _CODE.fullmatch(str(code)) and code is not None else ""


def is_quota(code: Any, message: str) -> bool:
    """Whether a provider says that too many tokens are enqueued (facts 5.5); older messages alone say it."""
    return code == QUOTA or _QUOTA_WORDS in message.lower()


def listed_errors(shard: BatchRecord) -> list[Mapping[str, Any]]:
    """What the provider says is wrong with a batch's input."""
    errors = (shard.upstream or {}).get("errors") or {}
    return [error for error in errors.get("data") or () if isinstance(error, dict)]


def by_line(shard: BatchRecord) -> dict[int, Failure]:
    """The same, by the input's line, counted from 1."""
    found = {}
    for error in listed_errors(shard):
        if isinstance(line := error.get("line"), int):
            found[line] = _failure(error)
    return found


def whole(shard: BatchRecord) -> Failure:
    """Why a batch failed, for its lines of which nothing else is said."""
    errors = listed_errors(shard)
    if not errors:
        return Failure("batch_failed", "The provider failed this part of the batch and did not say why.")
    first = _failure(errors[0])
    return Failure("batch_failed", f"The provider failed this part of the batch: {first.code}: {first.message}")


def _failure(error: Mapping[str, Any]) -> Failure:
    return Failure(str(error.get("code") or "invalid_request"), str(error.get("message") or ""))
