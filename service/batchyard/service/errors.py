"""What can go wrong, and how each error crosses the gRPC border.

    BatchyardError
     +- InvalidArgument          the caller's request is wrong; `param` names the field
     +- TooLarge                 ... because something in it is beyond a limit
     +- Unauthenticated          no key, or a wrong one
     +- PermissionDenied         a key that is good, but not for this
     +- NotFound                 no such file or batch for this caller (another tenant's is answered alike)
     +- FailedPrecondition       the request is fine, the thing's state is not; `reason` says which
     +- AlreadyExists            an idempotency key that was used for another request
     +- OutOfRange               a read that starts behind the end
     +- Late                     a bound in time was passed
     +- Busy                     a bound on work at once, or in a time, is reached; `retry_after` says when to come back
     +- StorageFull              our disk is full, or its configured bound is reached
     +- DataLoss                 bytes that we hold are missing or damaged
     +- Unavailable              not now: starting, draining, or the registry can't be reached
     +- Refused                  a provider answered with an error; `upstream` is what it said
     +- Unsure                   ... or with nothing, so that nobody knows whether it did what it was asked
     |   +- Unusable             ... or did it, and its answer does not name what it made
     +- LeaseLost                (never sent) somebody else holds this work now

Errors change type at three borders only: upstream HTTP to these, these to a gRPC status with details
(`calls.py`), that status to OpenAI's envelope (the shim). Everything else that is raised is a Defect: logged with its
traceback, answered without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpc import StatusCode

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"


class BatchyardError(Exception):
    """`message` is for people, `param` names the field, `code` is OpenAI's word for programs, where it has one."""

    status = StatusCode.UNKNOWN
    reason = "UNKNOWN"
    type = INVALID_REQUEST

    def __init__(self, message: str, *, param: str | None = None, code: Any = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.reason = reason or self.reason


class InvalidArgument(BatchyardError):
    status = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class TooLarge(InvalidArgument):
    reason = "TOO_LARGE"


class Unauthenticated(BatchyardError):
    """`key` is the id of a key that has ended and whose secret was shown: for the audit log, never for the caller."""

    status = StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"

    def __init__(self, message: str, *, key: str | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.key = key


class PermissionDenied(BatchyardError):
    status = StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class NotFound(BatchyardError):
    status = StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class FailedPrecondition(BatchyardError):
    status = StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class AlreadyExists(BatchyardError):
    status = StatusCode.ALREADY_EXISTS
    reason = "IDEMPOTENCY_KEY_REUSED"


class OutOfRange(BatchyardError):
    status = StatusCode.OUT_OF_RANGE
    reason = "OUT_OF_RANGE"


class Late(BatchyardError):
    status = StatusCode.DEADLINE_EXCEEDED
    reason = "TIMEOUT"
    type = SERVER_ERROR


class Defect(BatchyardError):
    status = StatusCode.INTERNAL
    reason = "INTERNAL"
    type = SERVER_ERROR

    def __init__(self) -> None:
        super().__init__("The server had an error while processing your request. Sorry about that!")


class Busy(BatchyardError):
    status = StatusCode.RESOURCE_EXHAUSTED
    reason = "BUSY"
    type = "requests"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after: float = 1.0
    ) -> None:
        """`retry_after` is in seconds."""
        super().__init__(message, param=param, code=code)
        self.retry_after = retry_after


class StorageFull(BatchyardError):
    status = StatusCode.RESOURCE_EXHAUSTED
    reason = "STORAGE_FULL"
    type = SERVER_ERROR


class DataLoss(BatchyardError):
    status = StatusCode.DATA_LOSS
    reason = "DATA_LOSS"
    type = SERVER_ERROR


class Unavailable(BatchyardError):
    status = StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"
    type = SERVER_ERROR


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a provider answered: its HTTP status (0: it never did), its request id, and headers worth keeping."""

    http_status: int
    provider: str
    deployment: str
    request_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(BatchyardError):
    """A provider's own error, which REST callers get as it was: the status is that of `upstream`.

    `type` and `extra`, members beyond the four that OpenAI has, are the provider's.
    """

    def __init__(
        self,
        status: StatusCode,
        message: str,
        upstream: Upstream,
        *,
        type: str | None = None,  # noqa: A002 - the member's name
        param: str | None = None,
        code: Any = None,
        reason: str = "UPSTREAM",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, reason=reason)
        self.status = status
        self.upstream = upstream
        self.type = type or (SERVER_ERROR if upstream.http_status >= 500 else INVALID_REQUEST)
        self.extra = dict(extra or {})


class Unsure(BatchyardError):
    """A change was asked for and the answer did not come: it may have happened, so nobody should repeat it blindly."""

    status = StatusCode.UNAVAILABLE
    reason = "UNSURE"
    type = SERVER_ERROR


class Unusable(Unsure):
    """A change was answered as done, by an answer that can't be read or names nothing: it must not be repeated."""


class LeaseLost(BatchyardError):
    status = StatusCode.ABORTED
    reason = "LEASE_LOST"
