"""The lines of a batch: how a provider checks them, and the little model that answers them."""

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tests.upstream.refusals import Json

_FAILURES = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "request_timeout": "This request timed out.",
}
_PROMPTS = ("messages", "input", "prompt")
_NEEDED = {"/v1/chat/completions": ("messages", "Messages")}
_NAMES = {
    "/v1/chat/completions": "Chat Completions",
    "/v1/completions": "Completions",
    "/v1/embeddings": "Embeddings",
    "/v1/moderations": "Moderations",
    "/v1/responses": "Responses",
}


@dataclass(frozen=True)
class Rules:
    """What a provider calls what is wrong with lines."""

    url: str
    model: str
    prefix_matters: bool
    most_lines: int
    too_many: str | None
    bom: str | None  # what it says of a byte order mark, where that is not just a line that is no JSON


@dataclass(frozen=True)
class Line:
    custom_id: str
    body: Json


@dataclass(frozen=True)
class Outcome:
    """What came of a line: an HTTP answer, or an error without one."""

    custom_id: str
    status: int = 0
    body: Json = field(default_factory=dict)
    error: Json | None = None

    @property
    def succeeded(self) -> bool:
        return self.status == 200

    def digest(self, batch_id: str) -> bytes:
        """What the ids in a line's result are made of."""
        return sha256(f"{batch_id}/{self.custom_id}".encode()).digest()


def batch_error(code: str, message: str, param: str | None = None, line: int | None = None) -> Json:
    return {"code": code, "message": message, "param": param, "line": line}


def glance(data: bytes) -> tuple[list[str], Counter[str]]:
    """The custom_ids of an input, and the prompt tokens of each model; lines that can't be read have neither."""
    custom_ids, tokens = [], Counter[str]()
    for raw in data.split(b"\n"):
        try:
            line = json.loads(raw)
            body = line["body"]
            tokens[body["model"]] += sum(len(json.dumps(body[name])) for name in _PROMPTS if name in body) // 4
            custom_ids.append(line["custom_id"])
        except (ValueError, RecursionError, LookupError, TypeError):
            continue
    return custom_ids, tokens


def check(data: bytes, endpoint: str, rules: Rules, known: Callable[[Any], bool]) -> tuple[list[Line], list[Json]]:
    """The lines of an input, and what is wrong with any: one error a line, in the order of the lines.

    `known` says of a model whether it is there.
    """
    checker = _Checker(endpoint, rules, known)
    numbered = [(number, raw) for number, raw in enumerate(data.split(b"\n"), 1) if raw.strip()]
    if not numbered:
        text = "The input file is empty. Please ensure that the batch contains at least one request."
        return [], [batch_error("empty_file", text)]
    if rules.bom and data.startswith(BOM_UTF8):
        return [], [batch_error("invalid_request", rules.bom)]
    if rules.too_many and len(numbered) > rules.most_lines:
        text = f"The number of requests exceeds the limit of {rules.most_lines} for a batch."
        return [], [batch_error(rules.too_many, text)]
    lines, errors = [], []
    for number, raw in numbered:
        try:
            lines.append(checker.line(raw))
        except _Wrong as wrong:
            errors.append(batch_error(wrong.code, wrong.message, wrong.param, number))
    return lines, errors


class _Wrong(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class _Checker:
    """Remembers what lines must not have twice, or must have in common."""

    def __init__(self, endpoint: str, rules: Rules, known: Callable[[Any], bool]) -> None:
        self._endpoint = endpoint
        self._rules = rules
        self._known = known
        self._ids: set[str] = set()
        self._model: str | None = None

    def line(self, raw: bytes) -> Line:
        line = _parsed(raw)
        for name in ("custom_id", "method", "url", "body"):
            if name not in line:
                raise _Wrong("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
        if self._url(line["url"]) != self._url(self._endpoint):
            text = "The URL provided for this request does not match the batch endpoint."
            raise _Wrong(self._rules.url, text, "url")
        self._check_body(line["body"])
        self._check_id(line["custom_id"])
        return Line(line["custom_id"], line["body"])

    def _url(self, url: Any) -> str:
        return str(url) if self._rules.prefix_matters else str(url).removeprefix("/v1")

    def _check_body(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise _Wrong("invalid_request", "Invalid type for 'body': expected an object.", "body")
        endpoint = f"/v1{self._endpoint.removeprefix('/v1')}"
        model = body.get("model")
        if not model and endpoint != "/v1/moderations":
            raise _Wrong("invalid_request", "Model parameter is required.", "body.model")
        needed, name = _NEEDED.get(endpoint, ("model", ""))
        if needed not in body and name:
            raise _Wrong("invalid_request", f"{name} parameter is required.", f"body.{needed}")
        if body.get("stream") is True:
            text = f"{_NAMES.get(endpoint, endpoint)}: Streaming is not supported in the Batch API."
            raise _Wrong("streaming_unsupported", text, "body.stream")
        if model and not self._known(model):
            text = f"The provided model '{model}' is not supported by the Batch API."
            raise _Wrong("model_not_found", text, "body.model")
        self._model = self._model or model
        if model != self._model:
            text = f"The model '{model}' for this request does not match the rest of the batch. Each batch must"
            raise _Wrong(self._rules.model, f"{text} contain requests for a single model.", "body.model")

    def _check_id(self, custom_id: str) -> None:
        if custom_id in self._ids:
            text = f"The custom_id '{custom_id}' for this request is a duplicate of another request. The custom_id"
            text = f"{text} parameter must be unique for each request in a batch."
            raise _Wrong("duplicate_custom_id", text, "custom_id")
        self._ids.add(custom_id)


def _parsed(raw: bytes) -> Json:
    try:
        line = json.loads(raw.decode())
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise _Wrong("invalid_json_line", "This line is not parseable as valid JSON.")
    return line


def unexecuted(line: Line, code: str) -> Outcome:
    """What comes of a line without an answer."""
    return Outcome(line.custom_id, error={"code": code, "message": _FAILURES.get(code, code)})


def execute(line: Line, endpoint: str) -> Outcome:
    """Answers with what was asked. A body's `fail` is the status, or the code without one, that it fails with."""
    failure = line.body.get("fail")
    if isinstance(failure, str):
        return unexecuted(line, failure)
    if failure:
        error = {"message": f"failure {failure}", "type": "invalid_request_error", "param": None, "code": "told_to"}
        return Outcome(line.custom_id, failure, {"error": error})
    answers = {"/responses": _response, "/embeddings": _embeddings, "/completions": _completion}
    answer = answers.get(endpoint.removeprefix("/v1"), _chat)
    return Outcome(line.custom_id, 200, answer(line.body))


def usage_of(outcomes: Sequence[Outcome]) -> Json:
    """The tokens of a batch, in the form of a batch."""
    used = [outcome.body.get("usage", {}) for outcome in outcomes]
    read = sum(one.get("prompt_tokens", one.get("input_tokens", 0)) for one in used)
    written = sum(one.get("completion_tokens", one.get("output_tokens", 0)) for one in used)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


def _chat(body: Json) -> Json:
    messages = body.get("messages") or [{"content": str(body.get("input", ""))}]
    text = str(messages[-1].get("content", ""))
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    words = len(text.split())
    return {**_head(body, "chat.completion"), "choices": [choice], "usage": _usage(words, words)}


def _completion(body: Json) -> Json:
    text = str(body.get("prompt", ""))
    words = len(text.split())
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    return {**_head(body, "text_completion"), "choices": [choice], "usage": _usage(words, words)}


def _embeddings(body: Json) -> Json:
    given = body.get("input", "")
    texts = given if isinstance(given, list) else [given]
    vectors = [[byte / 255 for byte in sha256(str(text).encode()).digest()[:4]] for text in texts]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": usage}


def _response(body: Json) -> Json:
    text = str(body.get("input", ""))
    words = len(text.split())
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": words,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": words,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 2 * words,
    }
    head = {"id": f"resp_{_digest(body)}", "object": "response", "created_at": 0, "status": "completed"}
    return {**head, "model": body.get("model"), "output": [message], "usage": usage}


def _head(body: Json, kind: str) -> Json:
    return {"id": f"chatcmpl-{_digest(body)}", "object": kind, "created": 0, "model": body.get("model")}


def _digest(body: Json) -> str:
    return sha256(json.dumps(body).encode()).hexdigest()[:24]


def _usage(read: int, written: int) -> Json:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
