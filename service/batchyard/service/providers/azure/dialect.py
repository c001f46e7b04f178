"""Azure OpenAI: every way in which it differs from OpenAI (facts 5 and 9), in one place."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchyard.service.config.settings import Deployment, UpstreamSettings
from batchyard.service.errors import InvalidArgument
from batchyard.service.providers.azure.credentials import Credential
from batchyard.service.providers.base import FileDescription, NewBatch
from batchyard.service.providers.openai.dialect import Members, OpenAI, expiry_fields
from batchyard.service.providers.remote import fields

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


class Azure(OpenAI):
    """Access to an Azure resource by either family of URLs, and a `Dialect`."""

    waits_for_files = True
    _list_names = ("data", "value")

    def __init__(self, deployment: Deployment, settings: UpstreamSettings, credential: Credential) -> None:
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
        usual: Members = {"status": "", "status_details": None, "bytes": 0, "created_at": None, "expires_at": None}
        found = usual | super().file(members)
        return found | {"status": _FILE_STATUS.get(found["status"], found["status"])}

    def batch(self, members: Members) -> Members:
        found: Members = {**dict.fromkeys(fields.TIMES), "errors": None, "status": ""} | super().batch(members)
        if found["status"] == "failed":  # facts 5.3: seen with completed_at instead
            found["failed_at"] = found["failed_at"] or found["completed_at"]
        found["endpoint"] = _endpoint(found.get("endpoint") or "")
        found["request_counts"] = found.get("request_counts") or dict.fromkeys(fields.COUNTS, 0)
        found["errors"] = _errors(found["errors"])
        return found

    def no_errors(self, file: Members) -> bool:
        """A batch without errors has an error file all the same, with nothing in it."""
        return not file.get("bytes")


def _lies_below(url: str, prefix: str) -> bool:
    """Whether a URL is a plain path below a prefix: nothing in it could lead elsewhere, or carry a key."""
    rest = url.removeprefix(prefix if prefix.endswith("/") else prefix + "/")
    plain = re.fullmatch(r"[A-Za-z0-9._~/-]{0,1024}", rest) and not {".", ".."} & set(rest.split("/"))
    return prefix.startswith("https://") and rest != url and bool(plain)


def _endpoint(endpoint: str) -> str:
    return "/v1" + endpoint if endpoint.startswith("/") and not endpoint.startswith("/v1/") else endpoint


def _errors(errors: Members | None) -> Members | None:
    listed = errors["data"] if errors else []
    return {**errors, "data": list(map(_error, listed))} if errors and listed else None


def _error(error: Members) -> Members:
    code = error.get("code")
    usual = {"line": None, "param": None}
    return {**usual, **error, "code": _ERROR_CODES.get(str(code), code)}
