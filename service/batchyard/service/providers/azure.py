"""Azure OpenAI: every way in which it differs from OpenAI (facts 5 and 9), in one place."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from batchyard.service.errors import InvalidArgument
from batchyard.service.providers.base import FileDescription, NewBatch
from batchyard.service.providers.identity import Credential
from batchyard.service.providers.openai import Members, OpenAI, expiry_fields
from batchyard.service.settings import Deployment, Upstream

EXPIRY_SECONDS = (1_209_600, 2_592_000)  # facts 5.2
_EARLY_LOOKS = (15.0, 30.0, 45.0)  # seconds after a creation: short batches end before the first round of a minute
_EXPIRES_SINCE = "2025-03-01"  # the oldest api-version that is known to take expires_after
_FILE_STATUS = {"pending": "uploaded", "running": "uploaded", "deleting": "error", "deleted": "error"}
_ERROR_CODES = {"url_mismatch": "invalid_url", "model_mismatch": "mismatched_model", "empty_batch": "empty_file"}
_CODES = {
    **dict.fromkeys(map(str, range(400, 600))),
    "429": "rate_limit_exceeded",
    "tooManyRequests": "rate_limit_exceeded",
    "DeploymentNotFound": "model_not_found",
    "notFound": None,
    "conflict": None,
    "internalFailure": None,
    "serviceUnavailable": None,
}
_TIMES = (
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
_COUNTS = ("total", "completed", "failed")


class Azure(OpenAI):
    """Access to an Azure resource by either family of URLs, and a `Dialect`."""

    def __init__(self, deployment: Deployment, settings: Upstream, credential: Credential) -> None:
        super().__init__(deployment, settings)
        version = deployment.api_version
        self.base = deployment.api_base + ("/openai/v1" if version == "v1" else "/openai")
        self.params = {} if version == "v1" else {"api-version": version}
        self.poll_seconds = settings.azure_poll_seconds
        if settings.azure_early_looks:
            self.early_looks = tuple(seconds for seconds in _EARLY_LOOKS if seconds < self.poll_seconds)
        self._credential = credential
        self._expires = version == "v1" or version >= _EXPIRES_SINCE
        self._file_seconds = settings.azure_file_seconds
        self._blob_prefixes = settings.azure_blob_prefixes or ()

    async def headers(self) -> Mapping[str, str]:
        return await self._credential.headers()

    def error_code(self, code: Any) -> Any:
        """OpenAI has no word where Azure repeats the HTTP status, or says what it stands for."""
        return _CODES.get(code, code) if isinstance(code, str) else code

    def file_fields(self, description: FileDescription) -> Iterator[tuple[str, str]]:
        """Raises InvalidArgument for an expiry that Azure doesn't take."""
        least, most = EXPIRY_SECONDS
        seconds = description.seconds
        if seconds is not None and not least <= seconds <= most:
            raise InvalidArgument(
                f"Invalid 'expires_after.seconds': Azure keeps files for {least} to {most} seconds, not for {seconds}.",
                param="expires_after.seconds",
            )
        yield from super().file_fields(description)

    def usual_fields(self, description: FileDescription) -> Iterator[tuple[str, str]]:
        """An expiry for the inputs of batches: a resource keeps 500 that have none, and 10,000 that have one."""
        if description.purpose in {"", "batch"} and self._expires and self._file_seconds:
            yield from expiry_fields(max(self._file_seconds, EXPIRY_SECONDS[0]))

    def create(self, new: NewBatch, input_file_id: str) -> Members:
        """The endpoint goes without /v1, as Azure's documentation has it; the lines may have either."""
        return super().create(new, input_file_id) | {"endpoint": new.endpoint.removeprefix("/v1")}

    def source(self, new: NewBatch, input_file_id: str) -> Members:
        """A blob is read, and the results are written, with the resource's own identity: only where that is allowed."""
        if not new.input_blob:
            return super().source(new, input_file_id)
        for name, url in (("input_blob", new.input_blob), ("output_folder.url", new.output_folder)):
            if not any(_lies_below(url, prefix) for prefix in self._blob_prefixes):
                raise InvalidArgument(f"Invalid '{name}': this service may not use that URL.", param=name)
        return {"input_blob": new.input_blob, "output_folder": {"url": new.output_folder}}

    def file(self, members: Members) -> Members:
        status = str(members.get("status") or "").lower()
        return {
            **members,
            "status": _FILE_STATUS.get(status, status),
            "status_details": members.get("status_details"),
            "bytes": members.get("bytes") or 0,
            **{name: _seconds(members.get(name)) for name in ("created_at", "expires_at")},
        }

    def batch(self, members: Members) -> Members:
        times = {name: _seconds(members.get(name)) for name in _TIMES}
        status = _words(str(members.get("status") or ""))
        if status == "failed":  # facts 5.3: seen with completed_at instead
            times["failed_at"] = times["failed_at"] or times["completed_at"]
        counts = members.get("request_counts")
        return {
            **super().batch(members),
            **times,
            "status": status,
            "endpoint": _endpoint(members.get("endpoint")),
            "errors": _errors(members.get("errors")),
            "request_counts": counts if isinstance(counts, dict) else dict.fromkeys(_COUNTS, 0),
        }

    def page(self, answer: Members) -> tuple[list[Members], bool]:
        """Older versions don't say whether more follow: then they may, as long as something came."""
        found = answer.get("data") or answer.get("value") or ()
        entries = [entry for entry in found if isinstance(entry, dict)]
        more = answer.get("has_more")
        return entries, bool(entries) if more is None else bool(more)

    def no_errors(self, file: Members) -> bool:
        """A batch without errors has an error file all the same, with nothing in it."""
        return not file.get("bytes")


def _lies_below(url: str, prefix: str) -> bool:
    """Whether a URL is a plain path below a prefix: nothing in it could lead elsewhere, or carry a key."""
    rest = url.removeprefix(prefix if prefix.endswith("/") else prefix + "/")
    plain = re.fullmatch(r"[A-Za-z0-9._~/-]{0,1024}", rest) and not {".", ".."} & set(rest.split("/"))
    return prefix.startswith("https://") and rest != url and bool(plain)


def _seconds(value: Any) -> int | None:
    """A time in Unix seconds, from these or from ISO 8601."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) or None
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return int(value) if re.fullmatch(r"\d{1,12}", value) else None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def _words(status: str) -> str:
    """`InProgress` as `in_progress`."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", status).lower()


def _endpoint(value: Any) -> str:
    endpoint = str(value or "")
    return "/v1" + endpoint if endpoint.startswith("/") and not endpoint.startswith("/v1/") else endpoint


def _errors(value: Any) -> Members | None:
    listed = value.get("data") if isinstance(value, dict) else value
    found = [_error(error) for error in listed or () if isinstance(error, dict)]
    return {**(value if isinstance(value, dict) else {}), "object": "list", "data": found} if found else None


def _error(error: Members) -> Members:
    code, line = error.get("code"), error.get("line")
    if isinstance(line, str):
        line = int(line) if re.fullmatch(r"\d{1,12}", line) else None
    return {**error, "code": _ERROR_CODES.get(str(code), code), "line": line, "param": error.get("param") or None}
