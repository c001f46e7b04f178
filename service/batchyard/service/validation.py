"""What batch creation makes of a scanned input."""

from batchyard.service.jsonl import LineError, Scan
from batchyard.service.requestline import endpoint_of


def judge(scan: Scan, endpoint: str, *, max_errors: int) -> list[LineError]:
    """Returns what is wrong with an input for a batch of this endpoint: the file's own errors, then the first lines'.

    One error a line: a url that is not the endpoint hides whatever else is wrong with the request. Exact for as many
    line errors as the scan was told to keep.
    """
    if not scan.lines:
        return [LineError("empty_file", _EMPTY, None, None)]
    errors = {error.line or 0: error for error in scan.errors}
    errors |= {line: LineError("invalid_url", _URL, "url", line) for line in _elsewhere(scan, endpoint_of(endpoint))}
    return [errors[line] for line in sorted(errors)][:max_errors]


_EMPTY = "The input file is empty. Please ensure that the batch contains at least one request."
_URL = "The URL provided for this request does not match the batch endpoint."


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
