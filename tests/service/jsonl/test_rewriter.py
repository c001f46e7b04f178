"""Lines that are rewritten: the model's name and the start of a url change, and no other byte."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.costs import calls_of
from tests.service.jsonl.lines import OBJECTS, SCALARS, VALUES, joined, spelled

from batchyard.service.jsonl.rewriter import Rewriter

CHAT = "/v1/chat/completions"
GROUPS = ["group", "gpt-4o/mini", "modèle", 'a "b" \\c', "model", "url", "m(1", "😀"]
MODELS = ["my-deployment", "ft:gpt:é", '"model"', "\\1", "group"]
_MODEL, _URL = b"\0model\0", b"\0url\0"
"""What stands in a drawn line for what is to change."""


def request(body: dict[str, Any], url: str = CHAT) -> bytes:
    return json.dumps({"custom_id": "a", "method": "POST", "url": url, "body": body}).encode()


def others(*taken: str) -> st.SearchStrategy[tuple[bytes, bytes]]:
    """Members with other names than those that are taken; small texts and whole objects."""
    names = st.sampled_from(["messages", "metadata", "tools", "Model", "model ", "user", 'x"model', "input"])
    return st.tuples(names.filter(lambda name: name not in taken).flatmap(spelled), VALUES | OBJECTS)


@st.composite
def templates(draw: st.DrawFn) -> bytes:
    """A good line with marks for the values of model and url; earlier values of these names may precede them."""
    key = {name: draw(spelled(name)) for name in ("model", "url", "body", "custom_id", "method")}
    earlier = draw(st.lists(st.tuples(spelled("model"), SCALARS.filter(lambda value: value[:1] in b'n"')), max_size=1))
    later = draw(st.lists(others(), max_size=3))
    body = draw(joined([*draw(st.lists(others(), max_size=3)), *earlier, (key["model"], _MODEL), *later]))
    members = [
        (key["custom_id"], b'"c"'),
        (key["method"], b'"POST"'),
        (key["url"], _URL),
        (key["body"], body),
        *draw(st.lists(others(), max_size=2)),
    ]
    first = draw(st.lists(st.sampled_from([(b'"url"', b'"/v1/x"'), (b'"body"', b'{"model":"group"}')]), max_size=1))
    return draw(joined([*first, *draw(st.permutations(members))]))


@st.composite
def files(draw: st.DrawFn, group: str, model: str, prefixed: bool) -> tuple[bytes, bytes]:
    """Some lines that name the group, and what they are to become."""
    given, wanted = [], []
    for _ in range(draw(st.integers(1, 4))):
        template = draw(
            templates() | st.just(b'{"custom_id":"c","method":"POST","url":\0url\0,"body":{"model":\0model\0}}')
        )
        url = draw(st.sampled_from([CHAT, CHAT, "/chat/completions"]).flatmap(spelled))
        bare = prefixed and not json.loads(url).startswith("/v1/")
        given.append(template.replace(_MODEL, draw(spelled(group))).replace(_URL, url))
        url = b'"/v1' + url[1:] if bare else url
        wanted.append(template.replace(_MODEL, json.dumps(model, ensure_ascii=False).encode()).replace(_URL, url))
    blanks = draw(st.lists(st.sampled_from([b"", b"\r", b" \t"]), max_size=2))
    ending = draw(st.sampled_from([b"\n", b"\r\n"]))
    last = draw(st.sampled_from([b"", ending]))
    return ending.join([*blanks, *given]) + last, ending.join([*blanks, *wanted]) + last


@settings(deadline=None)
@given(data=st.data(), group=st.sampled_from(GROUPS), model=st.sampled_from(MODELS), prefixed=st.booleans())
def test_nothing_but_model_and_url_changes(data: st.DataObject, group: str, model: str, prefixed: bool) -> None:
    given, wanted = data.draw(files(group, model, prefixed))
    assert Rewriter(group, model, prefixed=prefixed)(given) == wanted


@settings(deadline=None)
@given(data=st.data(), group=st.sampled_from(GROUPS), model=st.sampled_from(MODELS), prefixed=st.booleans())
def test_a_parser_reads_the_same_but_for_model_and_url(
    data: st.DataObject, group: str, model: str, prefixed: bool
) -> None:
    given, _ = data.draw(files(group, model, prefixed))
    rewritten = Rewriter(group, model, prefixed=prefixed)(given)
    for before, after in zip(given.split(b"\n"), rewritten.split(b"\n"), strict=True):
        if before.strip():
            expected = json.loads(before)
            expected["body"]["model"] = model
            if prefixed and not expected["url"].startswith("/v1/"):
                expected["url"] = "/v1" + expected["url"]
            assert json.loads(after) == expected


@settings(deadline=None)
@given(
    line=st.one_of(OBJECTS, OBJECTS.map(lambda body: b'{"custom_id":"a","method":"POST","url":"/x","body":%s}' % body))
)
@example(line=request({"input": "x", "metadata": {"model": "group"}}))
@example(line=request({"model": "other", "metadata": {"model": "group"}}, "/embeddings"))
@example(line=request({"model": None}))
@example(line=request({"model": 'group"'}))
@example(line=b'{"custom_id":"a","method":"POST","url":"/x","body":{"model":"group"},"body":{}}')
def test_a_line_that_does_not_name_the_group_stays(line: bytes) -> None:
    read = json.loads(line)
    if not isinstance(read.get("body"), dict) or read["body"].get("model") != "group":
        assert Rewriter("group", "m", prefixed=True)(line) == line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b'{"body":{"metadata":{"model":"group"},"model":"group"},"custom_id":"a","method":"POST","url":"/v1/x"}',
            b'{"body":{"metadata":{"model":"group"},"model":"m"},"custom_id":"a","method":"POST","url":"/v1/x"}',
        ),
        (
            b'{"custom_id":"\\"model\\":\\"group\\"","method":"POST","url":"/v1/x","body":{"mod\\u0065l":"gr\\u006fup"}}',
            b'{"custom_id":"\\"model\\":\\"group\\"","method":"POST","url":"/v1/x","body":{"mod\\u0065l":"m"}}',
        ),
        (
            b'{"custom_id":"a","method":"POST","url":"/v1/x","body":{"model":"group","mod\\u0065l":"group"}}',
            b'{"custom_id":"a","method":"POST","url":"/v1/x","body":{"model":"group","mod\\u0065l":"m"}}',
        ),
        (
            b'{"custom_id":"a","method":"POST","url":"\\/x","body":{"model":"group","input":{"url":"\\/x"}}}',
            b'{"custom_id":"a","method":"POST","url":"/v1\\/x","body":{"model":"m","input":{"url":"\\/x"}}}',
        ),
        (
            b'{"custom_id":"a","method":"POST","url":"/x","x\\"url":"/x","body":{"model":"group"},"x\\"model":"group"}',
            b'{"custom_id":"a","method":"POST","url":"/v1/x","x\\"url":"/x","body":{"model":"m"},"x\\"model":"group"}',
        ),
    ],
)
def test_what_a_plain_search_would_get_wrong(line: bytes, expected: bytes) -> None:
    assert Rewriter("group", "m", prefixed=True)(line) == expected
    common = request({"model": "group", "messages": []})
    assert Rewriter("group", "m", prefixed=True)(b"\n".join([common, line, common])).split(b"\n")[1] == expected


@pytest.mark.parametrize(("plain", "escaped"), [(b'"model"', b'"mod\\u0065l"'), (b'"gpt-4"', b'"gpt\\u002d4"')])
def test_one_line_with_two_members_and_one_with_none_are_told_apart(plain: bytes, escaped: bytes) -> None:
    """Together they have as many as there are lines."""
    two = {"metadata": {"model": "gpt-4"}, "model": "gpt-4"}
    none = request({"model": "gpt-4"}).replace(plain, escaped)
    renamed = request({"model": "m"}).replace(plain, escaped)
    rewritten = Rewriter("gpt-4", "m", prefixed=False)(b"\n".join([request(two), none]))
    assert rewritten == b"\n".join([request(two | {"model": "m"}), renamed])


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n \n"])
def test_blank_lines_stay(data: bytes) -> None:
    assert Rewriter("group", "m", prefixed=True)(data) == data


def test_urls_of_both_forms_in_one_file_all_get_the_prefix() -> None:
    urls = [CHAT, "/chat/completions", "/v1", "v1/x"]
    rewritten = Rewriter("group", "m", prefixed=True)(b"\n".join(request({"model": "group"}, url) for url in urls))
    read = [json.loads(line)["url"] for line in rewritten.split(b"\n")]
    assert read == [CHAT, CHAT, "/v1/v1", "/v1v1/x"]


@pytest.mark.parametrize("blank", [b"\n", b" \r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped"])
def test_blank_lines_cost_nothing_a_line_and_stay(blank: bytes, escaped: bool) -> None:
    body = b'{"custom_id":"a","method":"POST","url":"/v1/x","body":{"%s":"group"}}'
    line = body % (b"m\\u006fdel" if escaped else b"model")
    rewrite = Rewriter("group", "m", prefixed=True)
    assert rewrite(blank * 3 + line + b"\n" + blank) == blank * 3 + line.replace(b"group", b"m") + b"\n" + blank
    data = blank * 100_000 + line + b"\n" + blank * 100_000
    assert calls_of(lambda: rewrite(data)) < 200


def test_a_line_with_a_million_models_is_not_rewritten_by_listing_them() -> None:
    inner = b",".join([b'{"model":"group"}'] * 500_000)
    line = b'{"custom_id":"a","method":"POST","url":"/x","body":{"input":[%s],"model":"group"}}' % inner
    rewrite = Rewriter("group", "m", prefixed=True)
    tracemalloc.start()
    try:
        rewritten = rewrite(line)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rewritten == b'{"custom_id":"a","method":"POST","url":"/v1/x","body":{"input":[%s],"model":"m"}}' % inner
    assert peak < 4 * len(line)
