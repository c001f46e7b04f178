"""What batch creation makes of a scanned input."""

from collections.abc import Collection

from msgspec import json

from batchyard.service.config.settings import Limits
from batchyard.service.jsonl.request_line import endpoint_of
from batchyard.service.jsonl.scanner import LineError, Scan

_MOST_BYTES = 1 << 20  # of all errors together, so that a batch fits a message


def judge(
    scan: Scan, endpoint: str, limits: Limits, model: str | None = None, known: Collection[str] | None = None
) -> list[LineError]:
    """Returns what is wrong with an input for a batch of this endpoint: the file's own errors, then the first lines'.

    `model` is the one that lines have to name, None: any; `known` are those that there are, None: nobody knows.

    One error a line: a url that is not the endpoint hides whatever else is wrong with the request. Exact for as many
    line errors as the scan was told to keep.
    """
    if not scan.lines:
        return [LineError("empty_file", _EMPTY, None, None)]
    whole = [*_too_large(scan, limits.max_batch_file_bytes), *(error for error in scan.errors if error.line is None)]
    errors: dict[int, LineError] = _other_model(scan, model, known)
    errors |= {error.line: error for error in scan.errors if error.line is not None}
    errors |= {line: LineError("invalid_url", _URL, "url", line) for line in _elsewhere(scan, endpoint_of(endpoint))}
    return _fitting([*whole, *(errors[line] for line in sorted(errors))][: limits.max_line_errors])


_EMPTY = "The input file is empty. Please ensure that the batch contains at least one request."
_URL = "The URL provided for this request does not match the batch endpoint."


def _too_large(scan: Scan, most: int) -> list[LineError]:
    """Facts 3.5."""
    if scan.bytes <= most:
        return []
    model = next(iter(scan.models), "chosen")
    message = (
        f"The batch input file is larger than the {most} maximum for the {model} model. "
        "Please try again with a smaller batch."
    )
    return [LineError("invalid_request", message, None, None)]


def _other_model(scan: Scan, model: str | None, known: Collection[str] | None) -> dict[int, LineError]:
    """Errors of lines that agree on a model that isn't the batch's, or that nobody knows; others have theirs."""
    if len(scan.models) != 1:
        return {}
    (named,) = scan.models
    if model and named != model:
        code, message = "mismatched_model", f"The model '{named}' for this request is not the batch's, '{model}'."
    elif known is not None and named not in known:
        code, message = "model_not_found", f"The provided model '{named}' is not supported by the Batch API."
    else:
        return {}
    lines = sorted(line for found in scan.urls for line in found.first)
    return {line: LineError(code, message, "body.model", line) for line in lines}


def _fitting(errors: list[LineError]) -> list[LineError]:
    """The first errors, and one that says so where there are too many to tell."""
    size = 0
    for told, error in enumerate(errors):
        size += len(json.encode(error))
        if size > _MOST_BYTES:
            message = f"{len(errors) - told} more errors are not listed: together they are too long."
            return [*errors[:told], LineError("invalid_request", message, None, None)]
    return errors


def _elsewhere(scan: Scan, endpoint: str) -> list[int]:
    """Returns the lines whose url is known not to be the endpoint.

    Urls beyond those that a scan tells apart are not, if the endpoint is among these; otherwise they may be.
    """
    among = any(found.url == endpoint for found in scan.urls)
    return [
        line
        for found in scan.urls
        if found.url != endpoint and (found.url is not None or among)
        for line in found.first
    ]
