"""The scan of arbitrary bytes, in arbitrary pieces, against a plain reading of the whole."""

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from batchyard.service.config.settings import Limits
from batchyard.service.jsonl.scanner import MAX_URLS, Scan, Scanner
from batchyard.service.jsonl.validation import judge

from .inputs import bounded, cut, cuts, mutated

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
URLS = [CHAT, "/chat/completions", "/v1/embeddings", "/v1/moderations"]
LIMITS = Limits(max_batch_lines=12, max_line_bytes=300, max_line_errors=1000)
MEMBERS = ("custom_id", "method", "url", "body")


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A request that is good, or wrong in one member at most."""
    body: dict[str, Any] = {"model": draw(st.sampled_from(["m", "m", "m", "n", "é"])), "messages": []}
    line = {"custom_id": draw(st.sampled_from("abcdefgh")), "method": "POST", "url": draw(st.sampled_from(URLS))}
    strange: st.SearchStrategy[Any] = st.sampled_from([None, True, 1, 1.5, "", "x", "x" * 257, [], {}])
    whole = {**line, "body": body}
    match draw(st.integers(0, 5)):
        case 0:
            whole[draw(st.sampled_from(MEMBERS))] = draw(strange)
        case 1:
            body[draw(st.sampled_from(["model", "messages", "stream"]))] = draw(strange)
        case 2:
            del whole[draw(st.sampled_from(MEMBERS))]
    return json.dumps(whole, ensure_ascii=draw(st.booleans())).encode()


FILES = st.tuples(st.lists(lines(), max_size=14), st.sampled_from([b"\n", b"\r\n", b"\n\n"])).map(
    lambda parts: parts[1].join(parts[0])
)
ADVERSARIAL = [
    b"\n", b"\r\n", b" \n", b" \t\r\n", b"\t", b" ", b"\r", b"\x0b\n", b"\x0c", b"\xc2\xa0\n", b"1\n", b"{}\n", b"{}",
    b"[]\n", b"{\n", b'"\n', b"[", b"{", b"\xef\xbb\xbf", b"\xff\n", b"null\n", b'{"custom_id":', b'{"a":1}\n',
    b'"\\ud800"\n', b"0" * 61,
]  # fmt: skip
GOOD = [
    b'{"custom_id":"%d","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":%s}}\n' % pair
    for pair in enumerate([b'["a","b"]', b"[1,2,3]", b"[[1],[2]]", b'"\\"["', b'["\\\\","\\""]', b"[]", b"null"])
]
RUNS = st.tuples(st.sampled_from([*ADVERSARIAL, *GOOD]), st.integers(1, 40)).map(lambda run: run[0] * run[1])
ADVERSE = st.lists(RUNS, max_size=12).map(b"".join)
NARROW = st.builds(
    Limits,
    max_batch_lines=st.integers(1, 12),
    max_line_bytes=st.integers(1, 150),
    max_line_errors=st.integers(1, 4),
    max_embedding_inputs=st.integers(1, 6),
)
INPUTS = st.binary(max_size=200) | FILES | mutated(FILES)


def scan(pieces: list[bytes], limits: Limits = LIMITS) -> Scan:
    scanner = Scanner(limits, chunk_lines=3, chunk_bytes=500)
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


@dataclass
class Reference:
    """Reads the whole file, line by line, keeping everything."""

    limits: Limits = LIMITS
    lines: int = 0
    inputs: int = 0
    refused: bool = False
    ids: set[str] = field(default_factory=set)
    models: list[str] = field(default_factory=list)
    urls: dict[int, str] = field(default_factory=dict)
    errors: list[tuple[str, int | None]] = field(default_factory=list)

    def read(self, data: bytes) -> "Reference":
        for number, line in enumerate(data.split(b"\n"), 1):
            if len(line) > self.limits.max_line_bytes or line.strip(b" \t\r"):
                self.lines += 1
                self._judge(number, line)
        counted = ((self.inputs, self.limits.max_embedding_inputs), (self.lines, self.limits.max_batch_lines))
        self.errors = self.errors[: self.limits.max_line_errors]
        for count, most in counted:
            if count > most:
                self.errors.insert(0, ("too_many_tasks", None))
        return self

    def _judge(self, number: int, line: bytes) -> None:
        if self.lines > self.limits.max_batch_lines:
            return
        if code := self._wrong(number, line):
            self.errors.append((code, number))

    def _wrong(self, number: int, line: bytes) -> str | None:
        if len(line) > self.limits.max_line_bytes:
            return "invalid_request"
        if self.lines == 1:
            self.refused = not is_json(line.removeprefix(b"\xef\xbb\xbf"))
        if not is_json(line) or not isinstance(whole := json.loads(line), dict):
            return "invalid_json_line"
        if code := wrong_members(whole):
            return code
        self.urls[number] = whole["url"] if whole["url"].startswith("/v1/") else "/v1" + whole["url"]
        return self._wrong_body(whole["custom_id"], self.urls[number], whole["body"])

    def _wrong_body(self, custom_id: str, url: str, body: dict[str, Any]) -> str | None:
        model, known = body.get("model"), custom_id in self.ids
        self.ids.add(custom_id)
        self.models += [model] if model else []
        if known:
            return "duplicate_custom_id"
        if not model and url != "/v1/moderations":
            return "invalid_request"
        if url == CHAT and body.get("messages") is None:
            return "invalid_request"
        if body.get("stream") is True:
            return "streaming_unsupported"
        if url == EMBEDDINGS:
            self.inputs += inputs_of(body.get("input"))
        return "mismatched_model" if model and model != self.models[0] else None


def inputs_of(value: Any) -> int:
    several = isinstance(value, list) and value and isinstance(value[0], str | list)
    return len(value) if several else 1


def wrong_members(whole: dict[str, Any]) -> str | None:
    if not whole.keys() >= set(MEMBERS):
        return "missing_required_parameter"
    model = whole["body"].get("model") if isinstance(whole["body"], dict) else None
    if not all(isinstance(whole[name], str) for name in MEMBERS[:3]) or not isinstance(whole["body"], dict):
        return "invalid_type"
    if not isinstance(model, str | None):
        return "invalid_type"
    if len(model or "") > 256:
        return "string_above_max_length"
    if not whole["custom_id"]:
        return "empty_string"
    return "invalid_value" if whole["method"] != "POST" else None


def is_json(line: bytes) -> bool:
    """RFC 8259 in UTF-8, half surrogate pairs refused, also in a value that a later one of the same name hides."""
    try:
        json.dumps(
            json.loads(line.decode(), parse_constant=refuse, object_pairs_hook=whole), ensure_ascii=False
        ).encode()
    except (ValueError, RecursionError):
        return False
    return True


def refuse(constant: str) -> None:
    raise ValueError(constant)


def whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    json.dumps(pairs, ensure_ascii=False).encode()
    return dict(pairs)


@bounded(200)
@given(data=INPUTS, at=cuts(4000))
def test_where_pieces_are_cut_makes_no_difference(data: bytes, at: list[int]) -> None:
    assert scan(cut(data, at)) == scan([data])


@bounded(400)
@given(data=INPUTS)
def test_lines_and_what_is_wrong_with_them_are_those_of_a_plain_reading(data: bytes) -> None:
    found, expected = scan([data]), Reference().read(data)
    assert [(error.code, error.line) for error in found.errors] == expected.errors
    assert (found.lines, found.bytes) == (expected.lines, len(data))
    assert (found.refusal is not None) == (expected.refused or not expected.lines)
    assert set(expected.models) == set(found.models)


@bounded(200)
@given(data=INPUTS, endpoint=st.sampled_from(URLS))
def test_a_batch_is_told_of_each_line_that_a_plain_reading_finds_wrong(data: bytes, endpoint: str) -> None:
    expected = Reference().read(data)
    assume(len(set(expected.urls.values())) <= MAX_URLS)
    wanted = endpoint if endpoint.startswith("/v1/") else "/v1" + endpoint
    errors = {line or 0: code for code, line in expected.errors}
    errors |= {line: "invalid_url" for line, url in expected.urls.items() if url != wanted}
    if not expected.lines:
        errors = {0: "empty_file"}
    found = judge(scan([data]), endpoint, Limits(max_line_errors=1000))
    assert [(error.line or 0, error.code) for error in found] == sorted(errors.items())


@bounded(400)
@given(data=ADVERSE | mutated(ADVERSE), at=cuts(4000), limits=NARROW)
def test_adversarial_lines_are_judged_as_a_plain_reading_judges_them(
    data: bytes, at: list[int], limits: Limits
) -> None:
    found, expected = scan(cut(data, at), limits), Reference(limits).read(data)
    assert [(error.code, error.line) for error in found.errors] == expected.errors
    assert (found.lines, found.bytes) == (expected.lines, len(data))
    assert (found.refusal is not None) == (expected.refused or not expected.lines)
    assert sum(chunk.requests for chunk in found.chunks) == min(expected.lines, limits.max_batch_lines)


@bounded(40)
@given(seed=st.integers(0, 2**32))
def test_large_files_of_adversarial_lines_are_judged_alike_however_they_are_cut(seed: int) -> None:
    random = Random(seed)
    limits = Limits(max_batch_lines=random.choice([3, 3000]), max_line_bytes=100_000, max_line_errors=50)
    runs = [random.choice([*ADVERSARIAL, *GOOD]) * int(random.paretovariate(0.5) % 60_000) for _ in range(20)]
    data = b"".join(runs)[:600_000]
    pieces = cut(data, [random.randrange(len(data) + 1) for _ in range(random.randrange(12))])
    found, expected = scan(pieces, limits), Reference(limits).read(data)
    assert [(error.code, error.line) for error in found.errors] == expected.errors
    assert (found.lines, found.bytes) == (expected.lines, len(data))
