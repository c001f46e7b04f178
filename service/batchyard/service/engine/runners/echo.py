"""The built-in model: answers each endpoint in OpenAI's shape, the same for the same request, without a network."""

import asyncio
import base64
import json
import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

from batchyard.service.engine.runners.http import error_body, tokens_in
from batchyard.service.engine.runners.slots import LineControl, LineSlots
from batchyard.service.jsonl.request_line import count_values
from batchyard.service.jsonl.results import Answer, Failure

ECHO = "The echo model answers; nothing is sent to a provider."
"""For those who send it something."""

_DIMENSIONS = 16
_MOST_RESULTS = 2048
"""Results of one request, as OpenAI bounds the inputs of one."""
_MOST_NUMBERS = 1 << 19
"""In all vectors of an answer, which has some 20 bytes for each."""
_MOST_VALUES = 300_000
"""Of a request, texts, numbers, arrays and objects: each is built, and takes about a hundred bytes."""
_LARGE = 4096  # bytes of a body that is read in a thread: it, or what it asks for, may take its time
_CREATED = 0  # the model has no clock: the same request has the same answer
_CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")


class _Refusal(Exception):
    """What the model answers with status 400."""

    def __init__(self, message: str, param: str, code: str = "invalid_type") -> None:
        super().__init__(message)
        self.body = error_body(message, "invalid_request_error", param, code)


class Echo:
    """A `LineRunner` that answers with what it was asked, after `delay` seconds."""

    def __init__(self, slots: LineSlots, delay: float = 0) -> None:
        self.slots = slots
        self._delay = delay
        self._answers: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
            "/v1/chat/completions": _chat,
            "/v1/completions": _completion,
            "/v1/embeddings": _embeddings,
            "/v1/responses": _response,
            "/v1/moderations": _moderation,
        }

    async def run(self, path: str, body: bytes, *, until: float, control: LineControl) -> Answer | Failure | None:
        await asyncio.sleep(self._delay)
        if not control.go_on():
            return None
        if len(body) < _LARGE and b"dimensions" not in body:
            return self._answer(path, body)
        return await asyncio.to_thread(self._answer, path, body)

    def _answer(self, path: str, body: bytes) -> Answer:
        digest = blake2b(path.encode() + body, digest_size=16).hexdigest()
        try:
            data = msgspec.json.encode(self._answers[path](_parsed(body), digest))
        except _Refusal as refusal:
            return Answer(400, f"req_{digest}", refusal.body)
        return Answer(200, f"req_{digest}", data, tokens_in(data))


def _parsed(body: bytes) -> dict[str, Any]:
    """A line's body, which is a JSON object; one too deep, or with too many values or digits, is refused."""
    if len(body) > _MOST_VALUES and count_values(body, _MOST_VALUES) > _MOST_VALUES:
        message = f"This model reads at most {_MOST_VALUES} values in a request."
        raise _Refusal(message, "body", "invalid_value")
    try:
        parsed: dict[str, Any] = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refusal("We could not parse the JSON body of your request.", "body", "invalid_json") from None
    return parsed


def _chat(body: dict[str, Any], digest: str) -> dict[str, Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise _Refusal("Invalid type for 'messages': expected an array of objects.", "messages")
    asked = next((message.get("content") for message in reversed(messages) if message.get("role") == "user"), "")
    text = _text(asked, "messages")
    read = sum(_count(_text(message.get("content") or "", "messages")) for message in messages)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": "stop",
    }
    head = {"id": f"chatcmpl-{digest}", "object": "chat.completion", "created": _CREATED, "model": body.get("model")}
    return {**head, "choices": [choice], "usage": _usage(read, _count(text)), "system_fingerprint": "fp_echo"}


def _completion(body: dict[str, Any], digest: str) -> dict[str, Any]:
    prompts = _texts(body.get("prompt", ""), "prompt")
    _check_results(len(prompts), "prompt")
    choices = [
        {"index": index, "text": text, "logprobs": None, "finish_reason": "stop"} for index, text in enumerate(prompts)
    ]
    words = sum(map(_count, prompts))
    head = {"id": f"cmpl-{digest}", "object": "text_completion", "created": _CREATED, "model": body.get("model")}
    return {**head, "choices": choices, "usage": _usage(words, words)}


def _embeddings(body: dict[str, Any], _: str) -> dict[str, Any]:
    texts = _texts(body.get("input"), "input")
    dimensions = body.get("dimensions", _DIMENSIONS)
    if type(dimensions) is not int or not 1 <= dimensions <= 4096:
        raise _Refusal("Invalid 'dimensions': expected an integer from 1 to 4096.", "dimensions", "invalid_value")
    _check_results(len(texts), "input")
    if len(texts) * dimensions > _MOST_NUMBERS:
        message = f"This model answers at most {_MOST_NUMBERS} numbers in a request, in all embeddings."
        raise _Refusal(message, "dimensions", "invalid_value")
    encoded = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(text, dimensions, encoded)}
        for index, text in enumerate(texts)
    ]
    words = sum(map(_count, texts))
    usage = {"prompt_tokens": words, "total_tokens": words}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": usage}


def _response(body: dict[str, Any], digest: str) -> dict[str, Any]:
    asked = body.get("input")
    if isinstance(asked, list) and all(isinstance(item, dict) for item in asked):
        asked = next((item.get("content") for item in reversed(asked) if item.get("role") == "user"), "")
    text = _text(asked, "input")
    words = _count(text)
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": f"msg_{digest}", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": words,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": words,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 2 * words,
    }
    head = {"id": f"resp_{digest}", "object": "response", "created_at": _CREATED, "status": "completed"}
    rest = {"error": None, "incomplete_details": None, "metadata": _labels(body.get("metadata"))}
    return {**head, **rest, "model": body.get("model"), "output": [message], "usage": usage}


def _moderation(body: dict[str, Any], digest: str) -> dict[str, Any]:
    asked = body.get("input")
    if not isinstance(asked, str | list):
        raise _Refusal("Invalid type for 'input': expected a string or an array.", "input")
    count = len(asked) if isinstance(asked, list) else 1
    _check_results(count, "input")
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
    }
    results = [result] * count
    return {"id": f"modr-{digest}", "model": body.get("model", "echo"), "results": results}


def _check_results(count: int, param: str) -> None:
    if count > _MOST_RESULTS:
        expected = (
            f"Expected an array with maximum length {_MOST_RESULTS}, but got an array with length {count} instead."
        )
        raise _Refusal(f"Invalid '{param}': array too long. {expected}", param, "array_above_max_length")


def _text(value: Any, param: str) -> str:
    """A text, or the text parts of a message's content."""
    if isinstance(value, list):
        return " ".join(part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str))
    if not isinstance(value, str):
        raise _Refusal(f"Invalid type for '{param}': expected a string or an array.", param)
    return value


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, dict | None) or not all(isinstance(label, str) for label in (value or {}).values()):
        raise _Refusal("Invalid type for 'metadata': expected an object of strings.", "metadata")
    return value or {}


def _texts(value: Any, param: str) -> list[str]:
    """A text or a list of tokens as one; a list of either as it is."""
    if isinstance(value, list) and not all(isinstance(item, int) for item in value):
        return [_text(item, param) if isinstance(item, str) else json.dumps(item) for item in value]
    return [json.dumps(value) if isinstance(value, list) else _text(value, param)]


def _count(text: str) -> int:
    return len(text.split())


def _usage(read: int, written: int) -> dict[str, Any]:
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _vector(text: str, dimensions: int, encoded: bool) -> list[float] | str:
    """A unit vector that depends on the text alone."""
    raw = b"".join(
        blake2b(text.encode(errors="replace"), digest_size=64, salt=struct.pack("<Q", n)).digest()
        for n in range(-(-dimensions // 32))
    )
    values = [number / 32768 for (number,) in struct.iter_unpack("<h", raw)][:dimensions]
    length = sum(value * value for value in values) ** 0.5 or 1.0
    unit = [value / length for value in values]
    return base64.b64encode(struct.pack(f"<{dimensions}f", *unit)).decode() if encoded else unit
