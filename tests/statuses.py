"""Reads what an error of the service carries beside its code."""

import json
from typing import Any, NamedTuple
from urllib.parse import quote

from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from batchyard.v1 import ApiError, UpstreamError

DETAILS = "grpc-status-details-bin"


class Told(NamedTuple):
    """An error's details. `retry_after` is in seconds; `size` is what status and details take on the wire, in bytes."""

    reason: str
    domain: str
    message: str
    type: str
    param: str | None
    code: Any
    retry_after: float | None
    size: int
    upstream: UpstreamError


def told(error: aio.AioRpcError) -> Told:
    """The details of an error; fails where they did not arrive, or differ from the status they came with."""
    raw = trailer(error.trailing_metadata(), DETAILS)
    assert isinstance(raw, bytes), "no details arrived"
    status = status_pb2.Status.FromString(raw)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info, api, retry, upstream = (
        error_details_pb2.ErrorInfo(),
        ApiError(),
        error_details_pb2.RetryInfo(),
        UpstreamError(),
    )
    found = [detail.Unpack(message) for message in (info, api, retry, upstream) for detail in status.details]
    assert sum(found) == len(status.details) >= 2
    return Told(
        reason=info.reason,
        domain=info.domain,
        message=api.message,
        type=api.type,
        param=api.param if api.HasField("param") else None,
        code=json.loads(api.code_json),
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        upstream=upstream,
        size=len(raw) * 4 // 3 + len(quote(error.details() or "", safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")),
    )


def trailer(metadata: aio.Metadata | None, name: str) -> str | bytes | None:
    """The value of a metadata key, or None."""
    return next((value for key, value in metadata or () if key == name), None)
