"""What became of a line, and how OpenAI's output and error files say it (facts 3.2 and 3.3)."""

import re
from enum import IntEnum
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

_encode = msgspec.json.Encoder().encode

RESULT_ID = re.compile(rb"batch_req_[0-9a-f]{32}")
"""What `result_id` gives."""


class Kind(IntEnum):
    """Where a line's result goes and whether it counts."""

    COMPLETED = 1  # output file
    FAILED = 2  # error file
    NOT_RUN = 3  # error file, in no count


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


class _Usage(msgspec.Struct):
    """`usage` of every endpoint: chat completions, completions and embeddings first, responses second."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: dict[str, Any] | None = None
    output_tokens_details: dict[str, Any] | None = None


def tokens_of(usage: object) -> Tokens:
    """What a successful answer's `usage`, as JSON's own types, says; nothing where it is not in OpenAI's form."""
    try:
        used = msgspec.convert(usage, _Usage)
    except ValueError:
        return NO_TOKENS
    read = used.prompt_tokens_details or used.input_tokens_details or {}
    written = used.completion_tokens_details or used.output_tokens_details or {}
    counts = (
        used.prompt_tokens or used.input_tokens,
        read.get("cached_tokens"),
        used.completion_tokens or used.output_tokens,
        written.get("reasoning_tokens"),
    )
    return Tokens(*(count if isinstance(count, int) and 0 <= count < 1 << 32 else 0 for count in counts))
