"""Where errors become HTTP: a failed call's status and details, or our own refusal, as the REST API's envelope.

{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}
"""

import math
from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc import StatusCode
from starlette.responses import Response

from batchyard.common.calls import CallError
from batchyard.common.http import envelope
from batchyard.common.jsonmap import writer
from batchyard.v1 import ApiError, UpstreamError

DOMAIN = "batchyard"

# The HTTP status of each gRPC status, and the message where the service itself has not said what is wrong:
# then the failure is the transport's, and its own words name addresses and internals.
BY_STATUS: Mapping[StatusCode, tuple[int, str]] = {
    StatusCode.INVALID_ARGUMENT: (400, "The request is not valid."),
    StatusCode.FAILED_PRECONDITION: (400, "The request can't be carried out in the present state."),
    StatusCode.UNAUTHENTICATED: (401, "The API key is missing or not valid."),
    StatusCode.PERMISSION_DENIED: (403, "The API key does not allow this."),
    StatusCode.NOT_FOUND: (404, "There is no such thing."),
    StatusCode.ALREADY_EXISTS: (409, "It exists already."),
    StatusCode.ABORTED: (409, "Another request came first."),
    StatusCode.OUT_OF_RANGE: (416, "The requested range is not within the file."),
    StatusCode.RESOURCE_EXHAUSTED: (429, "Too many requests, or too much at once. Please try again later."),
    StatusCode.CANCELLED: (499, "The request was cancelled."),
    StatusCode.UNIMPLEMENTED: (501, "The service does not offer this."),
    StatusCode.UNAVAILABLE: (503, "The service is not reachable right now."),
    StatusCode.DEADLINE_EXCEEDED: (504, "The service did not answer in time."),
    **dict.fromkeys((StatusCode.INTERNAL, StatusCode.DATA_LOSS, StatusCode.UNKNOWN), (500, envelope.DEFECT)),
}

# Where the service's reason says more than its status.
BY_REASON: Mapping[tuple[StatusCode, str], int] = {
    (StatusCode.INVALID_ARGUMENT, "TOO_LARGE"): 413,
    (StatusCode.FAILED_PRECONDITION, "PROVIDER_AUTH"): 502,
    (StatusCode.FAILED_PRECONDITION, "BATCH_ENDED"): 409,
    (StatusCode.FAILED_PRECONDITION, "FILE_IN_USE"): 409,
    (StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL"): 507,
}

M = TypeVar("M", bound=Message)

_WRITE = writer(ApiError)


class RequestError(Exception):
    """An answer that is an error, of the type that fits the HTTP status."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers: dict[str, str] = {}
        self.error = envelope.error(status, message, param=param, code=code)

    def passed_on(self, upstream: UpstreamError, *, keep_status: bool) -> None:
        """Makes it a provider's own answer: its status, its headers, and the request id that its support asks for."""
        if keep_status and 400 <= upstream.http_status < 600:
            self.status = upstream.http_status
        self.headers |= upstream.headers
        if upstream.request_id:
            self.headers["x-request-id"] = upstream.request_id

    def response(self) -> Response:
        """The error as an HTTP response."""
        return Response(envelope.body(self.error), self.status, self.headers, "application/json")


def from_call(failure: CallError) -> RequestError:
    """A failed call as the error to answer."""
    status, message = BY_STATUS[failure.code]
    info = _detail(failure, error_details_pb2.ErrorInfo)
    if info is None or info.domain != DOMAIN:
        return RequestError(status, message)
    status = BY_REASON.get((failure.code, info.reason), status)
    error = RequestError(status, failure.message)
    if api := _detail(failure, ApiError):
        error.error |= {name: value for name, value in _WRITE(api).items() if value is not None}
    if upstream := _detail(failure, UpstreamError):
        error.passed_on(upstream, keep_status=info.reason in {"UPSTREAM", "UNSURE"})
    if error.status in {409, 507} or info.reason == "UNSURE":  # the official SDKs retry these unless told not to
        error.headers["x-should-retry"] = "false"
    if retry := _detail(failure, error_details_pb2.RetryInfo):
        delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        error.headers["retry-after"] = str(max(1, math.ceil(delay)))
    return error


def _detail(failure: CallError, kind: type[M]) -> M | None:
    for detail in failure.details.details if failure.details else ():
        found = kind()
        if detail.Unpack(found):
            return found
    return None
