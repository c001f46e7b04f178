import json

import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from batchyard.common.calls import CallError
from batchyard.shim.errors import BY_REASON, BY_STATUS, from_call
from batchyard.v1 import ApiError

STATUSES = {
    StatusCode.INVALID_ARGUMENT: 400, StatusCode.FAILED_PRECONDITION: 400, StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403, StatusCode.NOT_FOUND: 404, StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409, StatusCode.OUT_OF_RANGE: 416, StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499, StatusCode.UNIMPLEMENTED: 501, StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504, StatusCode.INTERNAL: 500, StatusCode.DATA_LOSS: 500, StatusCode.UNKNOWN: 500,
}  # fmt: skip
REASONS = {
    (StatusCode.INVALID_ARGUMENT, "TOO_LARGE"): 413,
    (StatusCode.FAILED_PRECONDITION, "PROVIDER_AUTH"): 502,
    (StatusCode.FAILED_PRECONDITION, "BATCH_ENDED"): 409,
    (StatusCode.FAILED_PRECONDITION, "FILE_IN_USE"): 409,
    (StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL"): 507,
}


def failure(code: StatusCode, *details: Message) -> CallError:
    status = status_pb2.Status(message="ours")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return CallError(code, "ours", status)


def ours(reason: str, domain: str = "batchyard") -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain)


def test_the_tables_have_every_status_and_reason() -> None:
    assert {*BY_STATUS, StatusCode.OK} == set(StatusCode)
    assert BY_REASON == REASONS


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [(code, "ANY", status) for code, status in STATUSES.items()]
    + [(code, reason, status) for (code, reason), status in REASONS.items()],
)
def test_every_row_of_the_table(code: StatusCode, reason: str, status: int) -> None:
    error = from_call(failure(code, ours(reason)))
    response = error.response()
    envelope = json.loads(bytes(response.body))
    kind = "invalid_request_error" if status < 500 else "server_error"
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers.get("x-should-retry") == ("false" if status in {409, 507} else None)
    assert envelope == {"error": {"message": "ours", "type": kind, "param": None, "code": None}}


@pytest.mark.parametrize("code", STATUSES)
def test_a_failure_that_is_not_the_services_own_never_shows_its_words(code: StatusCode) -> None:
    for foreign in (CallError(code, "ipv4:127.0.0.1:1"), failure(code, ours("TOO_LARGE", domain="elsewhere"))):
        error = from_call(foreign)
        assert error.status == STATUSES[code]
        assert error.error["message"] == BY_STATUS[code][1]


def test_the_services_wording_is_kept() -> None:
    api = ApiError(message="No such File", type="odd_error", param="id", code_json=b"429")
    error = from_call(failure(StatusCode.NOT_FOUND, ours("NOT_FOUND"), api))
    assert error.error == {"message": "No such File", "type": "odd_error", "param": "id", "code": 429}


def test_a_code_that_is_not_json_is_left_out() -> None:
    api = ApiError(message="m", code_json=b"{")
    assert from_call(failure(StatusCode.NOT_FOUND, ours("X"), api)).error["code"] is None


@pytest.mark.parametrize(("seconds", "nanos", "header"), [(0, 1, "1"), (2, 0, "2"), (2, 500_000_000, "3")])
def test_the_retry_delay_becomes_whole_seconds(seconds: int, nanos: int, header: str) -> None:
    delay = duration_pb2.Duration(seconds=seconds, nanos=nanos)
    retry = error_details_pb2.RetryInfo(retry_delay=delay)
    error = from_call(failure(StatusCode.UNAVAILABLE, ours("UNAVAILABLE"), retry))
    assert error.headers["retry-after"] == header
