"""Azure OpenAI's Files and Batches API, both families of its routes, as a real server on a free port."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from time import time
from typing import Any
from uuid import UUID

from tests.upstream.account import Call
from tests.upstream.dialect import Dialect
from tests.upstream.exchange import Seen
from tests.upstream.forms import Form, Upload
from tests.upstream.lines import Outcome, Rules, batch_error
from tests.upstream.quirks import Quirks
from tests.upstream.refusals import DAY, Json, Refusal, check_create, check_life
from tests.upstream.store import Upstream

ENDPOINTS = ("/chat/completions", "/responses", "/v1/chat/completions", "/v1/responses")
OLDER_PURPOSES = ["fine-tune", "fine-tune-results", "assistants", "assistants_output", "batch", "batch_output"]
PURPOSES = ["assistants", "batch", "fine-tune", "evals"]
FILE_LIMIT = 500
EXPIRING_FILE_LIMIT = 10_000

_LIFE = r"expires_after(?:\[|\.)(anchor|seconds)\]?"
_VERSION = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:-preview)?"
_NO_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
_NO_TOKEN = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect "
    "(https://cognitiveservices.azure.com), or have expired."
)
_RATE = (
    "Requests to the Batches_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded the call rate "
    "limit of your current OpenAI S0 pricing tier. Please retry after 37 seconds."
)
_PENDING = (
    "The input file '{}' is in '{}' state. Only files with status 'Processed' are accepted for batch inferencing. "
    "Please check the file status and try again"
)
_SIZES = ((10**9, "B"), (10**6, "M"), (1000, "K"))
_OWN_CODES = {"BadRequest", "token_limit_exceeded", "quotaExceeded"}
_CODES = {
    400: "invalidPayload",
    403: "forbidden",
    404: "notFound",
    409: "conflict",
    500: "internalFailure",
    503: "serviceUnavailable",
}


@asynccontextmanager
async def fake_azure(
    quirks: Quirks = Quirks(),  # noqa: B008
    *,
    key: str = "azure-upstream-key",
    clock: Callable[[], float] = time,
) -> AsyncIterator["FakeAzure"]:
    """A running resource; its `api_base` is its endpoint. Its ids come from `key`: others need another one."""
    fake = FakeAzure(_DIALECT, quirks, key, clock)
    async with fake.serving(""):
        yield fake


class FakeAzure(Upstream):
    """A resource at Azure. `tokens` are the Entra tokens that it takes; the limits are on inputs of batches."""

    file_limit = FILE_LIMIT
    expiring_file_limit = EXPIRING_FILE_LIMIT

    def __init__(self, dialect: Dialect, quirks: Quirks, key: str, clock: Callable[[], float]) -> None:
        super().__init__(dialect, quirks, key, clock)
        self.tokens: set[str] = set()

    def _admit(self, seen: Seen) -> None:
        if (key := seen.headers.get("api-key")) is not None:
            allowed, text = key == self.key, _NO_KEY
        else:
            scheme, _, token = seen.headers.get("authorization", "").partition(" ")
            is_key = token == self.key and _is_v1(seen)
            allowed, text = scheme == "Bearer" and (is_key or token in self.tokens), _NO_TOKEN
        if not allowed:
            raise Refusal(401, text, code="401")

    def _place(self, seen: Seen) -> tuple[str, bool]:
        version = seen.query.get("api-version")
        if _is_v1(seen):
            if version not in {None, "v1", "preview"}:
                raise _bad_version()
            return seen.path.removeprefix("/openai/v1/"), False
        if not seen.path.startswith("/openai/") or not version:
            raise self._no_route(seen)
        if not re.fullmatch(_VERSION, version):
            raise _bad_version()
        return seen.path.removeprefix("/openai/"), True

    def _check_upload(self, form: Form, file: Upload, call: Call) -> int | None:
        purpose = form.fields["purpose"]
        purposes = OLDER_PURPOSES if call.older else PURPOSES
        if purpose not in purposes:
            raise Refusal(400, f"'{purpose}' is not one of {purposes} - 'purpose'")
        if not file.content_type:
            raise Refusal(400, "The file has no or an empty content type.")
        life = check_life("expires_after", form.life(_LIFE), 14 * DAY, 30 * DAY)
        limit = self.expiring_file_limit if life else self.file_limit
        if purpose == "batch" and self._files.count(expiring=life is not None) >= limit:
            raise Refusal(400, f"The resource has reached its limit of {limit} files.", code="quotaExceeded")
        return life

    def _check_create(self, body: Any) -> tuple[Json, int | None]:
        blob = isinstance(body, dict) and body.get("input_blob")
        if blob:
            if body.get("metadata"):
                raise Refusal(400, "Metadata is not supported with an input blob.")
            body = {name: value for name, value in body.items() if name != "input_blob"} | {"input_file_id": blob}
        asked = check_create(body, ENDPOINTS, ("output_folder",) if blob else ())
        life = check_life("output_expires_after", asked.get("output_expires_after"), 14 * DAY, 30 * DAY)
        stored = self._files.find(asked["input_file_id"])
        if stored and not stored.processed:
            raise Refusal(400, _PENDING.format(asked["input_file_id"], stored.description["status"]))
        return asked, life

    def _stock(self, status: int) -> Refusal:
        if status == 429:
            return Refusal(429, _RATE, code="429", headers={"retry-after": "37", "retry-after-ms": "37000"})
        if status == 401:
            return Refusal(401, _NO_KEY, code="401")
        return Refusal(status, f"The request was refused: {status}.")

    def _no_route(self, seen: Seen) -> Refusal:
        return Refusal(404, "Resource not found", code="404")

    def _no_file(self, file_id: str) -> Refusal:
        return Refusal(404, f"File with id '{file_id}' not found.")

    def _no_batch(self, batch_id: str) -> Refusal:
        return Refusal(404, f"Batch with id '{batch_id}' not found.")

    def _error(self, refusal: Refusal) -> Json:
        own = refusal.code is not None and (refusal.code.isdigit() or refusal.code in _OWN_CODES)
        return {"code": refusal.code if own else _code(refusal.status), "message": refusal.message}

    def _error_wire(self, refusal: Refusal) -> Json:
        if refusal.status == 401 and self.quirks.old_errors:
            return {"statusCode": 401, "message": refusal.message}
        return super()._error_wire(refusal)

    def _headers(self, seen: Seen) -> Mapping[str, str]:
        mark = _guid(self._marks())
        sent = seen.headers.get("x-ms-client-request-id")
        return {
            "apim-request-id": mark,
            "x-request-id": _guid(self._marks()),
            "x-ms-region": "Sweden Central",
            "x-ms-client-request-id": sent or mark,
        }


def _is_v1(seen: Seen) -> bool:
    return seen.path.startswith("/openai/v1/")


def _code(status: int) -> str:
    return _CODES.get(status, str(status))


def _bad_version() -> Refusal:
    return Refusal(400, "API version not supported", code="BadRequest")


def _guid(digest: bytes) -> str:
    return str(UUID(bytes=digest[:16]))


def _file_id(digest: bytes) -> str:
    return f"file-{digest.hex()[:32]}"


def _output_id(digest: bytes) -> str:
    return f"file-{_guid(digest)}"


def _batch_id(digest: bytes) -> str:
    return f"batch_{_guid(digest)}"


def _result(batch_id: str, outcome: Outcome) -> Json:
    body = _filtered(outcome.body) if outcome.succeeded else outcome.body
    answer = {"body": body, "request_id": _guid(outcome.digest(batch_id)), "status_code": outcome.status}
    response = None if outcome.error else answer
    return {"custom_id": outcome.custom_id, "response": response, "error": outcome.error}


def _filtered(body: Json) -> Json:
    """An answer with what Azure's content filter says of it."""
    if "choices" not in body:
        return body
    safe = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
    choices = [{**choice, "content_filter_results": safe} for choice in body["choices"]]
    prompt = [{"prompt_index": 0, "content_filter_results": safe}]
    return {**body, "choices": choices, "prompt_filter_results": prompt}


def _missing_file(file_id: str) -> Json:
    return batch_error("invalid_request", f"Cannot find file {file_id}.", "file_id")


def _token_limit(model: str, tokens: int) -> str:
    bound = next((f"{tokens // size}{letter}" for size, letter in _SIZES if tokens % size == 0), str(tokens))
    text = f"The number of enqueued tokens has surpassed the configured limit of {bound} for the deployment '{model}'."
    return f"{text} Please either increase the limit or try again once the current jobs have finished."


_DIALECT = Dialect(
    file_id=_file_id,
    output_id=_output_id,
    batch_id=_batch_id,
    file_members={},
    pending=("pending", "running"),
    rules=Rules(
        url="url_mismatch",
        model="model_mismatch",
        prefix_matters=False,
        most_lines=100_000,
        too_many="too_many_tasks",
        bom="Validation failed: A valid model deployment name couldn't be extracted from the input file.",
    ),
    result=_result,
    missing_file=_missing_file,
    token_limit=_token_limit,
    usual_quota=("gpt-4.1-batch", 30_000),
    fails_fast=True,
    usual={"pending_reads": 1, "endpoint_prefix_dropped": True, "zero_byte_error_file": True, "no_usage": True},
)
