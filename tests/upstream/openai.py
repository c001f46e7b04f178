"""OpenAI's Files and Batches API, as a real server on a free port."""

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from time import time
from typing import Any

from tests.upstream.account import Call
from tests.upstream.dialect import Dialect
from tests.upstream.exchange import Seen
from tests.upstream.forms import Form, Upload
from tests.upstream.lines import Outcome, Rules, batch_error
from tests.upstream.quirks import Quirks
from tests.upstream.refusals import (
    DAY,
    Json,
    Refusal,
    check_choice,
    check_create,
    check_life,
)
from tests.upstream.store import Upstream

ORGANIZATION = "org-upstream"
ENDPOINTS = (
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
)
PURPOSES = ["fine-tune", "assistants", "batch", "user_data", "vision", "evals"]

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HOUR = 3600
_LIFE = r"expires_after\[(anchor|seconds)\]"
_KEYS_PAGE = "https://platform.openai.com/account/api-keys"
_FORMAT = "Invalid file format for Batch API. Must be .jsonl"
_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the "
    f"API from your browser and are prompted for a username and password. You can obtain an API key from {_KEYS_PAGE}."
)
_NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)
_RATE = (
    f"Rate limit reached for requests in organization {ORGANIZATION} on requests per min (RPM): Limit 1000, "
    "Used 1000, Requested 1. Please try again in 20s."
)
_STOCK: dict[int, tuple[str, str | None, str]] = {
    429: ("requests", "rate_limit_exceeded", _RATE),
    500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    503: ("service_unavailable_error", "server_is_overloaded", "The server is currently overloaded."),
}
_HEADERS = {
    "openai-processing-ms": "42",
    "openai-version": "2020-10-01",
    "openai-organization": ORGANIZATION,
    "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
    "access-control-expose-headers": "X-Request-ID",
    "x-content-type-options": "nosniff",
    "x-ratelimit-limit-requests": "1000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "999",
    "x-ratelimit-remaining-tokens": "1999000",
    "x-ratelimit-reset-requests": "120ms",
    "x-ratelimit-reset-tokens": "1s",
}


@asynccontextmanager
async def fake_openai(
    quirks: Quirks = Quirks(),  # noqa: B008
    *,
    key: str = "sk-upstream",
    clock: Callable[[], float] = time,
) -> AsyncIterator["FakeOpenAI"]:
    """A running OpenAI; its `api_base` ends in /v1. Its ids come from `key`: others need another one."""
    fake = FakeOpenAI(_DIALECT, quirks, key, clock)
    async with fake.serving("/v1"):
        yield fake


class FakeOpenAI(Upstream):
    """An account at OpenAI. Headers that name another organization or project than these, where set, are refused."""

    organization: str | None = None
    project: str | None = None

    def _admit(self, seen: Seen) -> None:
        scheme, _, key = seen.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            raise Refusal(401, _NO_KEY)
        if key != self.key:
            shown = f"{key[:8]}***{key[-4:]}"
            text = f"Incorrect API key provided: {shown}. You can find your API key at {_KEYS_PAGE}."
            raise Refusal(401, text, code="invalid_api_key")
        for name, own in (("organization", self.organization), ("project", self.project)):
            if own and seen.headers.get(f"openai-{name}", own) != own:
                text = f"OpenAI-{name.capitalize()} header should match {name} for API key."
                raise Refusal(401, text, code=f"mismatched_{name}")

    def _place(self, seen: Seen) -> tuple[str, bool]:
        if not seen.path.startswith("/v1/"):
            raise self._no_route(seen)
        return seen.path.removeprefix("/v1/"), False

    def _check_upload(self, form: Form, file: Upload, call: Call) -> int | None:
        purpose = form.fields["purpose"]
        if purpose not in PURPOSES:
            raise Refusal(400, f"'{purpose}' is not one of {PURPOSES} - 'purpose'", param="purpose")
        for name in form.fields:
            if name != "purpose" and not re.fullmatch(_LIFE, name):
                raise Refusal(400, f"Additional properties are not allowed ('{name}' was unexpected)")
        life = check_life("expires_after", form.life(_LIFE), _HOUR, 30 * DAY)
        if purpose != "batch":
            return life
        if not file.filename.endswith(".jsonl") or not _is_json(file.first_line):
            raise Refusal(400, _FORMAT)
        return life or 30 * DAY

    def _check_create(self, body: Any) -> tuple[Json, int | None]:
        if not isinstance(body, dict):
            raise Refusal(400, _NOT_JSON)
        asked = check_create(body, ENDPOINTS)
        check_choice("completion_window", asked["completion_window"], ["24h"])
        life = check_life("output_expires_after", asked.get("output_expires_after"), _HOUR, 30 * DAY)
        return asked, life or 30 * DAY

    def _stock(self, status: int) -> Refusal:
        kind, code, text = _STOCK.get(status, ("invalid_request_error", None, f"Your request was refused: {status}."))
        headers = {"retry-after": "20"} if status == 429 else None
        return Refusal(status, text, code=code, kind=kind, headers=headers)

    def _no_route(self, seen: Seen) -> Refusal:
        return Refusal(404, f"Invalid URL ({seen.method} {seen.path})")

    def _no_batch(self, batch_id: str) -> Refusal:
        return Refusal(404, f"No batch found with id '{batch_id}'.")

    def _error(self, refusal: Refusal) -> Json:
        return {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}

    def _headers(self, seen: Seen) -> Mapping[str, str]:
        return {"x-request-id": f"req_{self._marks().hex()[:32]}", **_HEADERS}


def _is_json(line: bytes | None) -> bool:
    try:
        json.loads("{}" if line is None else line.decode("utf-8-sig"))
    except ValueError:
        return False
    return True


def _file_id(digest: bytes) -> str:
    number = int.from_bytes(digest)
    return "file-" + "".join(_DIGITS[number // 62**at % 62] for at in range(22))


def _batch_id(digest: bytes) -> str:
    return f"batch_{digest.hex()[:32]}"


def _result(batch_id: str, outcome: Outcome) -> Json:
    mark = outcome.digest(batch_id).hex()
    answer = {"status_code": outcome.status, "request_id": f"req_{mark[32:]}", "body": outcome.body}
    response = None if outcome.error else answer
    return {
        "id": f"batch_req_{mark[:32]}",
        "custom_id": outcome.custom_id,
        "response": response,
        "error": outcome.error,
    }


def _missing_file(file_id: str) -> Json:
    text = f"Cannot find file {file_id}, or organization {ORGANIZATION} does not have access to it."
    return batch_error("invalid_request", text, "file_id")


def _token_limit(model: str, tokens: int) -> str:
    text = (
        f"Enqueued token limit reached for {model} in organization {ORGANIZATION}. Limit: {tokens:,} enqueued tokens."
    )
    return f"{text} Please try again once some in_progress batches have been completed."


_DIALECT = Dialect(
    file_id=_file_id,
    output_id=_file_id,
    batch_id=_batch_id,
    file_members={"status_details": None},
    pending=("uploaded", "uploaded"),
    rules=Rules(
        url="invalid_url",
        model="mismatched_model",
        prefix_matters=True,
        most_lines=50_000,
        too_many=None,
        bom=None,
    ),
    result=_result,
    missing_file=_missing_file,
    token_limit=_token_limit,
    usual_quota=("gpt-4.1", 900_000),
    fails_fast=False,
    usual={},
)
