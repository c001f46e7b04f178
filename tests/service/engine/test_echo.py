"""The built-in model: OpenAI's shape for each endpoint, the same answer for the same request."""

import asyncio
import base64
import json
import struct
import tracemalloc
from typing import Any

import pytest
from tests.fakes import Going
from tests.harness import figures

from batchyard.service.engine.runners.echo import Echo
from batchyard.service.engine.runners.slots import LineSlots
from batchyard.service.jsonl.results import Answer, Tokens

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, MODERATIONS = "/v1/responses", "/v1/moderations"

GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "one two"}]},
    COMPLETIONS: {"model": "m", "prompt": "one two"},
    EMBEDDINGS: {"model": "m", "input": "one two"},
    RESPONSES: {"model": "m", "input": "one two"},
    MODERATIONS: {"input": "one two"},
}


def echo() -> Echo:
    return Echo(LineSlots(1, figures()))


async def answer_to(path: str, body: Any) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    outcome = await echo().run(path, raw, until=asyncio.get_running_loop().time() + 60, control=Going())
    assert isinstance(outcome, Answer)
    return outcome


async def ask(path: str, body: Any) -> dict[str, Any]:
    outcome = await answer_to(path, body)
    assert outcome.status_code == 200
    answer: dict[str, Any] = json.loads(outcome.body)
    return answer


async def test_a_chat_completion_repeats_the_last_user_message() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "say"}, {"type": "image_url"}, {"text": "this"}]},
    ]
    answer = await ask(CHAT, {"model": "gpt-x", "messages": messages})
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "say this"
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "gpt-x")
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 2, 7)


async def test_a_completion_has_a_choice_for_each_prompt() -> None:
    answer = await ask(COMPLETIONS, {"model": "m", "prompt": ["a b", "c"]})
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "a b"), (1, "c")]
    assert answer["object"] == "text_completion"
    assert answer["usage"]["total_tokens"] == 6


@pytest.mark.parametrize(("given", "texts"), [([1, 2, 3], 1), ([[1, 2], [3]], 2), (["a", "b"], 2), ("a", 1)], ids=str)
async def test_an_embedding_is_made_for_each_text_or_list_of_tokens(given: Any, texts: int) -> None:
    answer = await ask(EMBEDDINGS, {"model": "m", "input": given})
    assert answer["object"] == "list"
    assert [item["index"] for item in answer["data"]] == list(range(texts))
    assert {item["object"] for item in answer["data"]} == {"embedding"}
    assert set(answer["usage"]) == {"prompt_tokens", "total_tokens"}


@pytest.mark.parametrize("dimensions", [1, 16, 100, 1536, 4096])
async def test_embeddings_are_unit_vectors_in_floats_and_in_base64_alike(dimensions: int) -> None:
    body = {"model": "m", "input": "text", "dimensions": dimensions}
    floats = (await ask(EMBEDDINGS, body))["data"][0]["embedding"]
    encoded = (await ask(EMBEDDINGS, body | {"encoding_format": "base64"}))["data"][0]["embedding"]
    assert len(floats) == dimensions
    assert sum(number * number for number in floats) == pytest.approx(1)
    assert struct.unpack(f"<{dimensions}f", base64.b64decode(encoded)) == pytest.approx(floats, abs=1e-6)


async def test_different_texts_have_different_embeddings() -> None:
    first, second = (await ask(EMBEDDINGS, {"model": "m", "input": ["a", "b"]}))["data"]
    assert first["embedding"] != second["embedding"]


@pytest.mark.parametrize(
    "given",
    ["say this", [{"role": "user", "content": "say this"}], [{"role": "user", "content": [{"text": "say this"}]}]],
    ids=["text", "message", "parts"],
)
async def test_a_response_repeats_its_input(given: Any) -> None:
    answer = await ask(RESPONSES, {"model": "m", "input": given, "metadata": {"k": "v"}})
    (message,) = answer["output"]
    assert message["content"] == [{"type": "output_text", "text": "say this", "annotations": []}]
    assert (answer["object"], answer["status"], answer["metadata"]) == ("response", "completed", {"k": "v"})
    usage = answer["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (2, 2, 4)


async def test_a_moderation_flags_nothing_and_has_a_result_for_each_input() -> None:
    answer = await ask(MODERATIONS, {"input": ["a", "b"]})
    assert len(answer["results"]) == 2
    assert not any(result["flagged"] for result in answer["results"])
    assert set(answer["results"][0]["categories"]) == set(answer["results"][0]["category_scores"])


@pytest.mark.parametrize("path", GOOD)
async def test_the_same_request_has_the_same_answer(path: str) -> None:
    first, second = await answer_to(path, GOOD[path]), await answer_to(path, GOOD[path])
    other = await answer_to(path, GOOD[path] | {"user": "u"})
    assert first == second
    assert first.request_id != other.request_id


@pytest.mark.parametrize(
    ("path", "tokens"),
    [
        (CHAT, Tokens(input=2, output=2)),
        (COMPLETIONS, Tokens(input=2, output=2)),
        (EMBEDDINGS, Tokens(input=2)),
        (RESPONSES, Tokens(input=2, output=2)),
        (MODERATIONS, Tokens()),
    ],
)
async def test_words_are_counted_as_tokens(path: str, tokens: Tokens) -> None:
    assert (await answer_to(path, GOOD[path])).tokens == tokens


async def test_an_answer_is_one_line() -> None:
    answer = await answer_to(CHAT, {"model": "m", "messages": [{"role": "user", "content": "a\nb\u2028c"}]})
    assert b"\n" not in answer.body


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": "hello"}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": ["hello"]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": 7}]}, "messages"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages"),
        (COMPLETIONS, {"prompt": {"a": 1}}, "prompt"),
        (EMBEDDINGS, {}, "input"),
        (EMBEDDINGS, {"input": {"a": 1}}, "input"),
        (EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions"),
        (EMBEDDINGS, {"input": "a", "dimensions": 4097}, "dimensions"),
        (EMBEDDINGS, {"input": "a", "dimensions": "16"}, "dimensions"),
        (EMBEDDINGS, {"input": "a", "dimensions": True, "encoding_format": "base64"}, "dimensions"),
        (RESPONSES, {}, "input"),
        (RESPONSES, {"input": 7}, "input"),
        (RESPONSES, {"input": "a", "metadata": ["b"]}, "metadata"),
        (MODERATIONS, {}, "input"),
        (MODERATIONS, {"input": 7}, "input"),
        (CHAT, b'{"messages":[],"seed":%s}' % (b"9" * 5000), "body"),
        (CHAT, b'{"messages":%s}' % (b"[" * 200_000 + b"]" * 200_000), "body"),
    ],
)
async def test_a_bad_shape_is_answered_with_400_in_openais_envelope(path: str, body: Any, param: str) -> None:
    answer = await answer_to(path, body)
    error = json.loads(answer.body)["error"]
    assert answer.status_code == 400
    assert answer.tokens == Tokens()
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_a_line_that_is_not_wanted_any_more_is_not_answered() -> None:
    until = asyncio.get_running_loop().time() + 60
    stopped = Going(lambda: False)
    assert await echo().run(CHAT, json.dumps(GOOD[CHAT]).encode(), until=until, control=stopped) is None


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        (EMBEDDINGS, b'{"model":"m","input":[%s1]}' % (b"1," * 5_000_000), "body", "at most 300000 values"),
        (CHAT, b'{"messages":[%s{}]}' % (b"{}," * 400_000), "body", "at most 300000 values"),
        (RESPONSES, b'{"input":"a",%s}' % b",".join(b'"%x":1' % n for n in range(310_000)), "body", "300000 values"),
        (COMPLETIONS, b'{"prompt":[%s""]}' % (b'"",' * 2048), "prompt", "maximum length 2048, but got"),
        (EMBEDDINGS, b'{"input":[%s""]}' % (b'"",' * 2048), "input", "an array with length 2049"),
        (MODERATIONS, b'{"input":[%s""]}' % (b'"",' * 2048), "input", "an array with length 2049"),
        (EMBEDDINGS, b'{"dimensions":4096,"input":[%s""]}' % (b'"",' * 128), "dimensions", "at most 524288 numbers"),
    ],
    ids=["numbers", "messages", "members", "prompts", "embeddings", "moderations", "dimensions"],
)
async def test_what_would_take_too_much_memory_is_answered_with_400(
    path: str, body: bytes, param: str, words: str
) -> None:
    tracemalloc.start()
    try:
        answer = await answer_to(path, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    error = json.loads(answer.body)["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert words in error["message"]
    assert peak < 4 * len(body) + (4 << 20)


async def test_as_many_results_as_allowed_are_answered() -> None:
    answer = await ask(EMBEDDINGS, {"model": "m", "input": [""] * 2048, "dimensions": 256})
    assert len(answer["data"]) == 2048


async def test_a_long_text_is_no_number_of_values() -> None:
    text = '1,2,[3],{"a":"\\"}' * 40_000
    answer = await ask(CHAT, {"model": "m", "messages": [{"role": "user", "content": text}]})
    assert answer["choices"][0]["message"]["content"] == text
