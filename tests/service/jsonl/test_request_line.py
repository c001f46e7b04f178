"""One line of a batch's input: every rule, with the exact words."""

import json
from typing import Any

import pytest

from batchyard.service.errors import DataLoss
from batchyard.service.jsonl.request_line import Fault, Request, check_body, endpoint_of, lines, read_line

CHAT = "/v1/chat/completions"
NOT_JSON = ("invalid_json_line", "This line is not parseable as valid JSON.", None)
NOT_AN_OBJECT = ("invalid_json_line", "This line is not a JSON object.", None)


def request(**changes: Any) -> bytes:
    """A good line with members changed, or left out where they are `...`."""
    members = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}} | changes
    return json.dumps({name: value for name, value in members.items() if value is not ...}).encode()


def check(line: bytes) -> tuple[str, str, str | None] | None:
    try:
        read = read_line(line)
        check_body(read.body, endpoint_of(read.url))
    except Fault as fault:
        return fault.code, fault.message, fault.param
    return None


def missing(name: str) -> tuple[str, str, str]:
    return "missing_required_parameter", f"Missing required parameter: '{name}'.", name


def wrong_type(name: str, expected: str, got: str) -> tuple[str, str, str]:
    return "invalid_type", f"Invalid type for '{name}': expected {expected}, but got {got} instead.", name


GOOD = {
    "plain": request(),
    "carriage return": request() + b"\r",
    "spaces around": b" \t" + request() + b" ",
    "unknown members": request(more={"a": [1, 2.5, None, True, "x"]}),
    "not ascii": request(custom_id="é").replace(b"\\u00e9", "é".encode()),
    "escaped names": request().replace(b'"url"', b'"\\u0075rl"'),
    "surrogate pair": request(custom_id="😀"),
    "id of 512 characters": request(custom_id="é" * 512),
    "very large number": request(more=None).replace(b"null", b"9" * 5000),
    "url without version": request(url="/chat/completions"),
    "stream false": request(body={"model": "m", "messages": [], "stream": False}),
    "stream of another type": request(body={"model": "m", "messages": [], "stream": "true"}),
    "moderation without model": request(url="/v1/moderations", body={"input": "x"}),
    "moderation with null model": request(url="/v1/moderations", body={"model": None, "input": "x"}),
    "embedding without messages": request(url="/v1/embeddings", body={"model": "m", "input": "x"}),
    "name twice, last good": b'{"custom_id": 3, "method": 1, "url": [], "body": 7, ' + request()[1:],
    "body's name twice, last good": request().replace(b'"model": ', b'"model": 3, "model": '),
}

BAD = {
    "no json": (b"hello", NOT_JSON),
    "truncated": (request()[:-1], NOT_JSON),
    "two objects": (request() + request(), NOT_JSON),
    "byte order mark": (b"\xef\xbb\xbf" + request(), NOT_JSON),
    "utf-16": (request().decode().encode("utf-16"), NOT_JSON),
    "invalid utf-8 in a value": (request(custom_id="@").replace(b"@", b"\xff"), NOT_JSON),
    "invalid utf-8 in the body": (request(body={"x": "@"}).replace(b"@", b"\xff"), NOT_JSON),
    "surrogate as utf-8": (request(body={"x": "@"}).replace(b"@", b"\xed\xa0\x80"), NOT_JSON),
    "half a surrogate pair": (request(body={"x": "@"}).replace(b"@", b"\\ud800"), NOT_JSON),
    "nan": (request(body={"x": float("nan")}), NOT_JSON),
    "infinity": (request(body={"x": float("-inf")}), NOT_JSON),
    "control character": (request(body={"x": "@"}).replace(b"@", b"\x01"), NOT_JSON),
    "trailing comma": (request().replace(b"[]", b"[1,]"), NOT_JSON),
    "leading zero": (request().replace(b"[]", b"[01]"), NOT_JSON),
    "form feed around": (b"\x0c" + request(), NOT_JSON),
    "nested beyond measure": (request().replace(b"[]", b"[" * 100_000 + b"]" * 100_000), NOT_JSON),
    "broken array": (b"[1", NOT_JSON),
    "array": (b" [1]", NOT_AN_OBJECT),
    "string": (b'"x"', NOT_AN_OBJECT),
    "null": (b"null", NOT_AN_OBJECT),
    "empty object": (b"{}", missing("custom_id")),
    "no custom_id": (request(custom_id=...), missing("custom_id")),
    "no method": (request(method=...), missing("method")),
    "no url": (request(url=...), missing("url")),
    "no body": (request(body=...), missing("body")),
    "missing before wrong type": (request(custom_id=1, body=...), missing("body")),
    "null custom_id": (request(custom_id=None), wrong_type("custom_id", "a string", "null")),
    "number as custom_id": (request(custom_id=7), wrong_type("custom_id", "a string", "an integer")),
    "decimal as custom_id": (request(custom_id=7.5), wrong_type("custom_id", "a string", "a decimal")),
    "boolean as custom_id": (request(custom_id=True), wrong_type("custom_id", "a string", "a boolean")),
    "array as method": (request(method=[]), wrong_type("method", "a string", "an array")),
    "object as url": (request(url={}), wrong_type("url", "a string", "an object")),
    "string as body": (request(body="x"), wrong_type("body", "an object", "a string")),
    "name twice, last wrong": (request()[:-1] + b', "url": 1}', wrong_type("url", "a string", "an integer")),
    "number as model": (request(body={"model": 1}), wrong_type("body.model", "a string", "an integer")),
    "empty custom_id": (
        request(custom_id=""),
        (
            "empty_string",
            "Invalid 'custom_id': empty string. Expected a string with minimum length 1, "
            "but got an empty string instead.",
            "custom_id",
        ),
    ),
    "long custom_id": (
        request(custom_id="é" * 513),
        (
            "string_above_max_length",
            "Invalid 'custom_id': string too long. Expected a string with maximum length 512, "
            "but got a string with length 513 instead.",
            "custom_id",
        ),
    ),
    "long model": (
        request(body={"model": "m" * 257}),
        (
            "string_above_max_length",
            "Invalid 'body.model': string too long. Expected a string with maximum length 256, "
            "but got a string with length 257 instead.",
            "body.model",
        ),
    ),
    "other method": (
        request(method="GET"),
        ("invalid_value", "Invalid value: 'GET'. Supported values are: 'POST'.", "method"),
    ),
    "long method": (
        request(method="x" * 99),
        ("invalid_value", f"Invalid value: '{'x' * 32}'. Supported values are: 'POST'.", "method"),
    ),
    "no model": (request(body={}), ("invalid_request", "Model parameter is required.", "body.model")),
    "null model": (request(body={"model": None}), ("invalid_request", "Model parameter is required.", "body.model")),
    "empty model": (request(body={"model": ""}), ("invalid_request", "Model parameter is required.", "body.model")),
    "no messages": (
        request(body={"model": "m"}),
        ("invalid_request", "Messages parameter is required.", "body.messages"),
    ),
    "null messages": (
        request(body={"model": "m", "messages": None}),
        ("invalid_request", "Messages parameter is required.", "body.messages"),
    ),
    "no messages, url without version": (
        request(url="/chat/completions", body={"model": "m"}),
        ("invalid_request", "Messages parameter is required.", "body.messages"),
    ),
    "streaming chat": (
        request(body={"model": "m", "messages": [], "stream": True}),
        (
            "streaming_unsupported",
            "Chat Completions: Streaming is not supported in the Batch API.",
            "body.stream",
        ),
    ),
    "streaming response": (
        request(url="/v1/responses", body={"model": "m", "stream": True}),
        ("streaming_unsupported", "Responses: Streaming is not supported in the Batch API.", "body.stream"),
    ),
    "streaming elsewhere": (
        request(url="/v1/other", body={"model": "m", "stream": True}),
        ("streaming_unsupported", "Streaming is not supported in the Batch API.", "body.stream"),
    ),
}


@pytest.mark.parametrize("line", GOOD.values(), ids=GOOD)
def test_good_line_has_no_fault(line: bytes) -> None:
    assert check(line) is None


@pytest.mark.parametrize(("line", "fault"), BAD.values(), ids=BAD)
def test_bad_line_has_one_fault_in_openais_words(line: bytes, fault: tuple[str, str, str | None]) -> None:
    assert check(line) == fault


@pytest.mark.parametrize("line", GOOD.values(), ids=GOOD)
def test_good_line_is_read_again_as_it_was_scanned(line: bytes) -> None:
    [read] = lines(line, 5)
    scanned = read_line(line)
    assert (read.line_number, read.custom_id, read.url) == (5, scanned.custom_id, scanned.url)
    assert json.loads(read.body, parse_int=float) == json.loads(line, parse_int=float)["body"]


def test_body_is_kept_byte_for_byte() -> None:
    body = b'{"model" : "m",  "x":[1.0, 1e5,"\\u00e9"], "x":2}'
    line = b'{"body":  ' + body + b' ,"url":"/v1/embeddings","custom_id":"a","method":"POST"}'
    assert list(lines(line, 1)) == [Request(1, "a", "/v1/embeddings", body)]


def test_blank_lines_are_skipped_and_counted() -> None:
    data = b"\n \t\r\n" + request(custom_id="a") + b"\r\n\r\n" + request(custom_id="b")
    assert [(read.line_number, read.custom_id) for read in lines(data, 10)] == [(12, "a"), (14, "b")]


def test_line_that_was_never_scanned_is_data_loss() -> None:
    with pytest.raises(DataLoss, match="Line 8 of the stored input is damaged"):
        list(lines(request() + b"\n" + request()[:-3], 7))


@pytest.mark.parametrize("member", ["custom_id", "url"])
def test_a_text_that_is_no_utf_8_is_data_loss(member: str) -> None:
    with pytest.raises(DataLoss, match="Line 7 of the stored input is damaged"):
        list(lines(request(**{member: "XX"}).replace(b"XX", b"\xc3("), 7))
