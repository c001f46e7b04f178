"""The scan of a batch's input."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.service.config.settings import Limits
from batchyard.service.jsonl.request_line import lines
from batchyard.service.jsonl.scanner import LineError, Scan, Scanner

CHAT = "/v1/chat/completions"
BROKEN = "Invalid file format for Batch API. Must be .jsonl: line 1 is not valid JSON."
EMPTY = "Invalid file format for Batch API. Must be .jsonl: the file is empty."
LIMITS = Limits(max_batch_lines=20, max_line_bytes=400, max_line_errors=4)


def request(custom_id: str, model: str | None = "m", url: str = CHAT, text: str = "hello", **more: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": text}]} | more
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode()


def scan(*pieces: bytes, limits: Limits = LIMITS, chunk_lines: int = 3, chunk_bytes: int = 600) -> Scan:
    scanner = Scanner(limits, chunk_lines=chunk_lines, chunk_bytes=chunk_bytes)
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


def codes(found: Scan) -> list[tuple[str, int | None]]:
    return [(error.code, error.line) for error in found.errors]


def test_statistics_of_a_good_file() -> None:
    data = b"\n".join([request("a"), request("b", text="x" * 100), b"", request("c")])
    found = scan(data)
    prompts = [json.dumps([{"role": "user", "content": text}]) for text in ("hello", "x" * 100, "hello")]
    assert (found.lines, found.bytes, found.models) == (3, len(data), ("m",))
    assert found.estimated_tokens == sum(map(len, prompts)) // 4
    assert [(urls.url, urls.count, urls.first) for urls in found.urls] == [(CHAT, 3, [1, 2, 4])]
    assert (found.errors, found.refusal) == ((), None)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n", b"\n \r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_line_endings_and_blank_lines_are_tolerated(ending: bytes, last: bool) -> None:
    found = scan(ending.join([request("a"), request("b")]) + (ending if last else b""))
    assert (found.lines, found.errors, found.refusal) == (2, (), None)


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\n\t"])
def test_file_without_requests_is_refused(data: bytes) -> None:
    found = scan(data)
    assert (found.lines, found.refusal, found.chunks) == (0, EMPTY, ())


@pytest.mark.parametrize("first", [b"id,prompt", b"[1", b'{"a": NaN}', b'"\xff"', b"\xff\xfe{\x00", b"\xef\xbb\xbfx"])
def test_file_whose_first_line_is_not_json_is_refused(first: bytes) -> None:
    assert scan(first + b"\n" + request("a")).refusal == BROKEN


@pytest.mark.parametrize("first", [b"{}", b"[1]", b"null", b"x" * 401])
def test_file_whose_first_line_may_be_json_is_kept(first: bytes) -> None:
    assert scan(first + b"\n" + request("a")).refusal is None


def test_later_line_that_is_not_json_is_no_reason_to_refuse() -> None:
    found = scan(request("a") + b"\nhello")
    assert (found.refusal, codes(found)) == (None, [("invalid_json_line", 2)])


def test_byte_order_mark_is_an_error_of_line_1_and_no_reason_to_refuse() -> None:
    found = scan(b"\xef\xbb\xbf" + request("a"))
    assert (found.refusal, codes(found)) == (None, [("invalid_json_line", 1)])


@pytest.mark.parametrize("piece", [1, 100, 10_000])
def test_line_that_is_too_long_is_an_error_of_its_own(piece: int) -> None:
    exact = request("a").ljust(400)
    data = b"\n".join([exact, exact + b" ", request("b")])
    found = scan(*(data[at : at + piece] for at in range(0, len(data), piece)))
    message = "This line is longer than the maximum of 400 bytes."
    assert found.errors == (LineError("invalid_request", message, None, 2),)
    assert (found.lines, found.bytes) == (3, len(data))


def test_too_many_requests_are_counted_and_named_once() -> None:
    data = b"\n\n".join(request(str(number)) for number in range(25))
    found = scan(data)
    message = "The batch input file has 25 requests, more than the maximum of 20."
    assert found.errors == (LineError("too_many_tasks", message, None, None),)
    assert (found.lines, sum(urls.count for urls in found.urls)) == (25, 20)
    assert sum(chunk.requests for chunk in found.chunks) == 20


def test_as_many_requests_as_allowed_are_fine() -> None:
    assert scan(b"\n".join(request(str(number)) for number in range(20)) + b"\n\n").errors == ()


def test_second_use_of_a_custom_id_is_an_error_of_the_later_line() -> None:
    found = scan(b"\n".join([request("a"), request("b"), request("a", model="other"), request("a")]))
    message = (
        "The custom_id 'a' for this request is a duplicate of another request. "
        "The custom_id parameter must be unique for each request in a batch."
    )
    assert found.errors == tuple(LineError("duplicate_custom_id", message, "custom_id", line) for line in (3, 4))


def test_duplicates_are_found_across_a_large_file() -> None:
    names = [f"request-{number}" for number in range(30_000)]
    limits = Limits(max_line_errors=10)
    found = scan(b"\n".join(map(request, [*names, names[0], names[15_000], names[-1]])), limits=limits)
    assert codes(found) == [("duplicate_custom_id", line) for line in (30_001, 30_002, 30_003)]


def test_model_that_differs_from_the_first_is_an_error() -> None:
    data = [request("a", None), request("b"), request("c", "other"), request("d")]
    found = scan(b"\n".join(data))
    message = (
        "The model 'other' for this request does not match the rest of the batch. "
        "Each batch must contain requests for a single model."
    )
    assert codes(found) == [("invalid_request", 1), ("mismatched_model", 3)]
    assert found.errors[1] == LineError("mismatched_model", message, "body.model", 3)


def test_models_are_listed_by_frequency_and_at_most_16() -> None:
    data = [request(f"{model}-{number}", f"m{model}") for model in range(18) for number in range(model + 1)]
    found = scan(b"\n".join(data), limits=Limits())
    assert found.models == tuple(f"m{model}" for model in range(17, 1, -1))


def test_first_lines_of_a_url_are_as_many_as_errors_are_kept() -> None:
    found = scan(b"\n".join(request(str(number)) for number in range(6)))
    assert [(urls.count, urls.first) for urls in found.urls] == [(6, [1, 2, 3, 4])]


def test_scan_stays_small_whatever_the_file() -> None:
    data = [request("x" * 500, "m" * 200 + str(number), f"/v1/{number}/" + "u" * 10_000) for number in range(3000)]
    found = scan(b"\n".join(data), limits=Limits(), chunk_lines=500, chunk_bytes=4 << 20)
    assert len(json.dumps(found.to_dict())) < 100_000
    assert (len(found.urls), len(found.models), len(found.errors)) == (9, 16, 100)


FRAGMENTS = st.one_of(
    st.builds(
        request,
        st.sampled_from("abcdefgh"),
        st.sampled_from(["m", "n", None, "", "é"]),
        st.sampled_from([CHAT, "/chat/completions", "/v1/embeddings", "/v1/moderations", "/x"]),
        text=st.sampled_from(["hello", "x" * 300]),
        stream=st.sampled_from([True, False, None]),
    ),
    st.integers(0, 10**9).map(lambda number: request(str(number))),
    st.sampled_from([b"", b" \t", b"\r", b"{}", b"[]", b"hello", b"\xff", b'{"custom_id": "a"}', b"x" * 401]),
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from([request("a").replace(b"POST", b"GET"), request("a").replace(b'"a"', b"1"), b"\xef\xbb\xbf{}"]),
)
FILES = st.tuples(st.lists(FRAGMENTS, max_size=30), st.sampled_from([b"\n", b"\r\n"]), st.booleans()).map(
    lambda parts: parts[1].join(parts[0]) + (parts[1] if parts[2] else b"")
)


@given(data=FILES, cuts=st.lists(st.integers(0, 5000)))
def test_where_pieces_are_cut_makes_no_difference(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert scan(*pieces) == scan(data)


@given(data=FILES)
def test_scan_comes_back_from_json_unchanged(data: bytes) -> None:
    found = scan(data)
    assert Scan.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@given(data=FILES, chunk_lines=st.integers(1, 5), chunk_bytes=st.integers(1, 1000))
def test_chunks_hold_each_request_once(data: bytes, chunk_lines: int, chunk_bytes: int) -> None:
    found = scan(data, limits=Limits(), chunk_lines=chunk_lines, chunk_bytes=chunk_bytes)
    seen: list[tuple[int, bytes]] = []
    for chunk in found.chunks:
        piece = data[chunk.offset : chunk.offset + chunk.size]
        inside = requests(piece, chunk.first_line)
        assert (chunk.first_request, chunk.requests) == (len(seen), len(inside))
        assert 1 <= len(inside) <= chunk_lines
        assert chunk.size <= chunk_bytes or len(inside) == 1
        seen += inside
    assert seen == requests(data, 1)


def requests(data: bytes, first_line: int) -> list[tuple[int, bytes]]:
    return [(number, line) for number, line in enumerate(data.split(b"\n"), first_line) if line.strip(b" \t\r")]


@given(data=FILES, chunk_lines=st.integers(1, 5))
def test_tokens_of_a_chunk_are_those_of_its_lines(data: bytes, chunk_lines: int) -> None:
    limits = Limits(max_line_bytes=400)
    found = scan(data, limits=limits, chunk_lines=chunk_lines)
    pieces = [data[chunk.offset : chunk.offset + chunk.size] for chunk in found.chunks]
    assert [chunk.tokens for chunk in found.chunks] == [scan(piece, limits=limits).estimated_tokens for piece in pieces]


def test_tokens_are_rounded_down_once_a_chunk() -> None:
    found = scan(b"\n".join(request(str(number), text="x") for number in range(8)))
    prompt = len(json.dumps([{"role": "user", "content": "x"}]))
    assert prompt % 4
    assert [chunk.tokens for chunk in found.chunks] == [3 * prompt // 4, 3 * prompt // 4, 2 * prompt // 4]
    assert found.estimated_tokens == 8 * prompt // 4


def test_scan_that_was_stored_before_tokens_were_counted_still_loads() -> None:
    found = scan(request("a"))
    stored = found.to_dict()
    stored["chunks"] = [chunk[:5] for chunk in stored["chunks"]]
    assert Scan.from_dict(stored).chunks == (msgspec.structs.replace(found.chunks[0], tokens=0),)


def test_chunks_are_as_large_as_they_may_be() -> None:
    line = request("a")
    found = scan(b"\n".join([line] * 7), chunk_bytes=2 * len(line) + 1)
    assert [chunk.requests for chunk in found.chunks] == [2, 2, 2, 1]
    assert [chunk.requests for chunk in scan(b"\n".join([line] * 7)).chunks] == [3, 3, 1]


def test_blank_lines_at_the_ends_are_in_no_chunk() -> None:
    found = scan(b"\n" * 10_000 + request("a") + b"\n" * 10_000)
    assert [(chunk.first_line, chunk.offset, chunk.size) for chunk in found.chunks] == [
        (10_001, 10_000, len(request("a")))
    ]


def test_requests_of_all_chunks_are_those_of_the_file() -> None:
    data = b"\n" + b"\r\n\n".join(request(str(number), text="x" * number) for number in range(100)) + b"\n"
    chunks = scan(data, limits=Limits()).chunks
    cut = [(data[chunk.offset : chunk.offset + chunk.size], chunk.first_line) for chunk in chunks]
    read = [line for piece, first in cut for line in lines(piece, first)]
    assert [line.custom_id for line in read] == [str(number) for number in range(100)]
    assert read == list(lines(data, 1))
    assert max(chunk.requests for chunk in chunks) == 3


def refuse(constant: str) -> None:
    raise ValueError(constant)


def naive(line: bytes, ids: set[str], models: list[str]) -> str | None:
    """What is wrong with a line, the obvious way."""
    if len(line) > LIMITS.max_line_bytes:
        return "invalid_request"
    try:
        read = json.loads(line.decode(), parse_constant=refuse)
    except ValueError:
        return "invalid_json_line"
    return naive_members(read, ids, models) if isinstance(read, dict) else "invalid_json_line"


def naive_members(read: dict[str, Any], ids: set[str], models: list[str]) -> str | None:
    if not {"custom_id", "method", "url", "body"} <= read.keys():
        return "missing_required_parameter"
    if not isinstance(read["custom_id"], str):
        return "invalid_type"
    if read["method"] != "POST":
        return "invalid_value"
    duplicate = read["custom_id"] in ids
    ids.add(read["custom_id"])
    return "duplicate_custom_id" if duplicate else naive_body(read, models)


def naive_body(read: dict[str, Any], models: list[str]) -> str | None:
    model = read["body"]["model"]
    if model:
        models.append(model)
    if not model and read["url"] != "/v1/moderations":
        return "invalid_request"
    if read["body"].get("stream"):
        return "streaming_unsupported"
    return "mismatched_model" if model and model != models[0] else None


@given(data=FILES)
def test_scan_agrees_with_the_obvious_way(data: bytes) -> None:
    ids: set[str] = set()
    models: list[str] = []
    numbered = requests(data, 1)
    checked = [(naive(line, ids, models), number) for number, line in numbered[: LIMITS.max_batch_lines]]
    errors = [(code, number) for code, number in checked if code][: LIMITS.max_line_errors]
    found = scan(data)
    assert codes(found) == [("too_many_tasks", None)] * (len(numbered) > LIMITS.max_batch_lines) + errors
    assert (found.lines, found.bytes) == (len(numbered), len(data))
    assert set(models) <= set(found.models)


def test_frequencies_agree_with_a_counter() -> None:
    names = ["m", "n", "o", "n", "m", "n"]
    found = scan(b"\n".join(request(str(number), model) for number, model in enumerate(names)))
    assert list(found.models) == [model for model, _ in Counter(names).most_common()]
