"""What became of a line, and how OpenAI's output and error files say it (facts 3.2 and 3.3)."""

import re
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from batchyard.service.domain.numbers import count
from batchyard.service.domain.records import Kind

_encode = msgspec.json.Encoder().encode
_MOST_TOKENS = (1 << 32) - 1  # of a line; a journal's record has four bytes for it

RESULT_ID = re.compile(rb"batch_req_[0-9a-f]{32}")
"""What `result_id` gives."""


class Tokens(NamedTuple):
    """What a line used."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


NO_TOKENS = Tokens()


class Answer(NamedTuple):
    """An HTTP answer to a line: `body` is one JSON value without line breaks. Below 400 it is a success."""

    status_code: int
    request_id: str
    body: bytes
    tokens: Tokens = NO_TOKENS


class Failure(NamedTuple):
    """Why there is no HTTP answer to a line."""

    code: str
    message: str


EXPIRED = Failure("batch_expired", "This request could not be executed before the completion window expired.")
CANCELLED = Failure("batch_cancelled", "This request was not executed because the batch was cancelled.")
TIMEOUT = Failure("request_timeout", "This request was not answered in time.")
LOST = Failure(
    "result_lost",
    "The stored result of this request is damaged. The request was not sent again, since its first answer may have "
    "had an effect.",
)


class Result(NamedTuple):
    """One line of an output or error file, newline included."""

    line: int
    kind: Kind
    tokens: Tokens
    text: bytes


def result(batch_id: str, line: int, custom_id: str, outcome: Answer | Failure, *, ran: bool = True) -> Result:
    """The result of an input line; its id depends on batch and line alone, so that a repeat has the same."""
    head = b'{"id":"%s","custom_id":%s,"response":' % (result_id(batch_id, line), _encode(custom_id))
    if isinstance(outcome, Failure):
        error = _encode({"code": outcome.code, "message": outcome.message})
        kind = Kind.FAILED if ran else Kind.NOT_RUN
        return Result(line, kind, NO_TOKENS, b'%snull,"error":%s}\n' % (head, error))
    response = b'{"status_code":%d,"request_id":%s,"body":%s}' % (
        outcome.status_code,
        _encode(outcome.request_id),
        outcome.body,
    )
    kind = Kind.COMPLETED if outcome.status_code < 400 else Kind.FAILED
    return Result(line, kind, outcome.tokens, b'%s%s,"error":null}\n' % (head, response))


def result_id(batch_id: str, line: int) -> bytes:
    """The id of an input line's result."""
    digest = blake2b(b"%s:%d" % (batch_id.encode(), line), digest_size=16).hexdigest()
    return b"batch_req_" + digest.encode()


def tokens_of(usage: object) -> Tokens:
    """What a successful answer's `usage`, as JSON's own types, says; each number counts by itself.

    Chat completions, completions and embeddings have `prompt_tokens` and `completion_tokens`, responses `input_tokens`
    and `output_tokens`.
    """
    if not isinstance(usage, dict):
        return NO_TOKENS
    read, written = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Tokens(
        _tokens(usage, "prompt_tokens") or _tokens(usage, "input_tokens"),
        _tokens(read, "cached_tokens") or _tokens(usage.get("input_tokens_details"), "cached_tokens"),
        _tokens(usage, "completion_tokens") or _tokens(usage, "output_tokens"),
        _tokens(written, "reasoning_tokens") or _tokens(usage.get("output_tokens_details"), "reasoning_tokens"),
    )


def _tokens(told: object, name: str) -> int:
    return count(told.get(name), _MOST_TOKENS) if isinstance(told, dict) else 0
