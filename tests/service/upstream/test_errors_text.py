"""What a provider says of an error reaches people in its own words, whatever form they came in, and never too long."""

import json
from typing import Any

import pytest

from batchyard.service.upstream.errors_text import MOST_TEXT, MOST_WORD, cut_text, read_error

NO_FIELD = {"type": "missing", "loc": ["body", "input_file_id"], "msg": "Field required", "input": {"a": 1}}


def said(value: Any, status: int = 400) -> tuple[str, str | None, str | None, Any]:
    """Message, type, param and code of an error's body."""
    return read_error(value if isinstance(value, bytes) else json.dumps(value).encode(), status)[:4]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "No.", "type": "t", "param": "p", "code": "c"}}, ("No.", "t", "p", "c")),
        ({"error": "model is overloaded"}, ("model is overloaded", None, None, None)),
        ({"error": "invalid_client", "error_description": "No such."}, ("No such.", None, None, "invalid_client")),
        ({"error": "Bad Request", "message": "No lines.", "status": 400}, ("No lines.", None, None, None)),
        ({"error": {"code": "model_not_found"}}, ("The provider answered with HTTP status 400: model_not_found",)),
        ({"code": "busy", "type": "t"}, ("The provider answered with HTTP status 400: busy", "t", None, "busy")),
        ({"error": {"message": {"message": "Inner."}}}, ("Inner.",)),
        ({"message": "Plain."}, ("Plain.", None, None, None)),
        ({"message": ["One.", "Two."], "statusCode": 400}, ("One.; Two.",)),
        ({"Message": "AWS."}, ("AWS.",)),
        ({"object": "error", "message": "vLLM.", "type": "BadRequestError", "param": None, "code": 400},
         ("vLLM.", "BadRequestError", None, 400)),
        ({"detail": "Not Found"}, ("Not Found", None, None, None)),
        ({"detail": [NO_FIELD]}, ("body.input_file_id: Field required", None, "input_file_id", None)),
        ({"detail": [NO_FIELD, {"loc": ["query", 3], "msg": "Bad."}]},
         ("body.input_file_id: Field required; query.3: Bad.", None, "input_file_id", None)),
        ({"detail": {"message": "Inner.", "code": "c"}}, ("Inner.", None, None, "c")),
        ({"detail": {"error": {"message": "Deep.", "type": "t"}}}, ("Deep.", "t")),
        ({"type": "about:credit", "title": "No credit.", "detail": "You have 3.", "status": 402},
         ("No credit.: You have 3.", "about:credit")),
        ({"title": "No credit.", "status": 402}, ("No credit.",)),
        ({"errors": [{"message": "One.", "code": "c", "param": "p"}, {"message": "Two."}]},
         ("One.; Two.", None, "p", "c")),
        ({"errors": ["One.", "Two."]}, ("One.; Two.",)),
        ({"errors": {"model": ["is unknown"]}}, ("model: is unknown",)),
        ([{"error": {"code": 400, "message": "Google.", "status": "INVALID_ARGUMENT"}}], ("Google.", None, None, 400)),
        ("x", ("x", None, None, None)),
        (b"upstream connect error\n", ("upstream connect error",)),
        (b"\xef\xbb\xbf{\"error\": \"after a BOM\"}", ("after a BOM",)),
        (b"<html><head><title>502 Bad Gateway</title></head><body><h1>Other</h1></body></html>",
         ("The provider answered with HTTP status 400: 502 Bad Gateway",)),
        (b"<!DOCTYPE html>\n<h1>Service &amp;\nUnavailable</h1><p>Authorization: x</p>",
         ("The provider answered with HTTP status 400: Service & Unavailable",)),
        (b"<html>\xe9<title>Caf</title>", ("The provider answered with HTTP status 400: Caf",)),
    ],
    ids=str,
)  # fmt: skip
def test_words_are_found_in_every_form(body: Any, expected: tuple[Any, ...]) -> None:
    assert said(body)[: len(expected)] == expected


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b"{", b"\xff", b"7", b"null", b"\x00\x01abc", b'{"error": null}', b"<html></html>"),
        *(
            b'{"error": {"message": 7}}',
            b'{"detail": [7, null]}',
            b"[" * 100_000,
            b'{"error": ' * 900 + b"1" + b"}" * 900,
        ),
    ],
    ids=lambda body: str(body[:20]),
)
def test_what_has_no_words_gets_ours(body: bytes) -> None:
    assert said(body)[0] == "The provider answered with HTTP status 400."


@pytest.mark.parametrize(
    "member", ["9" * 400, "9" * 5000, "1e309", "NaN", '"\\ud800"', "[" * 900 + "]" * 900, "-" + "9" * 400]
)
def test_a_member_that_nothing_can_hold_hides_no_other(member: str) -> None:
    body = '{"error": {"message": "No.", "code": %s, "type": %s, "param": %s, "x": %s, "y": 1}}'
    error = read_error((body % ((member,) * 4)).encode(), 400)
    assert error.message == "No."
    assert error.extra["y"] == 1
    json.dumps([error.code, error.type, error.param, error.extra]).encode()


@pytest.mark.parametrize("form", ["plain", "message", "detail", "list", "code", "page"])
def test_no_text_is_longer_than_the_bound(form: str) -> None:
    text = "prompt " * 200_000
    body: dict[str, Any] = {
        "plain": text.encode(),
        "message": {"error": {"message": text, "code": text, "type": text, "param": text, "more": text}},
        "detail": {"detail": [{"loc": [text], "msg": text}] * 3},
        "list": {"errors": [text, *["x" * 500] * 10_000]},
        "code": {"code": text},
        "page": b"<html><title>" + text.encode() + b"</title>",
    }
    error = read_error(body[form] if isinstance(body[form], bytes) else json.dumps(body[form]).encode(), 400)
    assert 0 < len(error.message) <= MOST_TEXT
    assert all(len(word or "") <= MOST_WORD for word in (error.type, error.param, error.code))
    assert error.extra == {}


def test_a_cut_text_keeps_its_beginning_and_its_end() -> None:
    text = cut_text("begin" + "x" * 100_000 + "end")
    assert text.startswith("begin")
    assert text.endswith("end")
    assert cut_text("short \ud800") == "short ?"
