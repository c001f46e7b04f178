"""What batch creation makes of a scan."""

import json

import msgspec

from batchyard.service.config.settings import Limits
from batchyard.service.jsonl.scanner import LineError, Scanner
from batchyard.service.jsonl.validation import judge

CHAT = "/v1/chat/completions"
LIMITS = Limits(max_batch_lines=20, max_line_errors=5)


def request(custom_id: str, url: str = CHAT, model: str | None = "m") -> bytes:
    line = {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": model, "messages": ()}}
    return json.dumps(line).encode()


def judged(*lines: bytes, endpoint: str = CHAT) -> list[LineError]:
    scanner = Scanner(LIMITS, chunk_lines=500, chunk_bytes=4 << 20)
    scanner.feed(b"\n".join(lines))
    return judge(scanner.finish(), endpoint, LIMITS)


def codes(errors: list[LineError]) -> list[tuple[str, int | None]]:
    return [(error.code, error.line) for error in errors]


def test_good_file_has_no_errors() -> None:
    assert judged(request("a"), b"", request("b", "/chat/completions")) == []
    assert judged(request("a"), request("b"), endpoint="/chat/completions") == []


def test_empty_file_is_named() -> None:
    message = "The input file is empty. Please ensure that the batch contains at least one request."
    assert judged(b"", b" ") == [LineError("empty_file", message, None, None)]


def test_url_that_is_not_the_endpoint_is_an_error_of_its_line() -> None:
    message = "The URL provided for this request does not match the batch endpoint."
    assert judged(request("a"), request("b", "/v1/embeddings")) == [LineError("invalid_url", message, "url", 2)]


def test_wrong_url_hides_what_else_is_wrong_with_a_request() -> None:
    errors = judged(request("a"), request("b", "/v1/embeddings", None), request("a", "/v1/embeddings"))
    assert codes(errors) == [("invalid_url", 2), ("invalid_url", 3)]


def test_broken_line_stays_broken_whatever_its_url() -> None:
    errors = judged(request("a"), b"hello", b'{"url": "/v1/embeddings"}', request("b", "/x").replace(b"POST", b"PUT"))
    assert codes(errors) == [("invalid_json_line", 2), ("missing_required_parameter", 3), ("invalid_value", 4)]


def test_errors_are_merged_by_line_and_cut() -> None:
    bad = [request(str(number), model=None) for number in range(6)]
    elsewhere = [request(f"e{number}", "/v1/embeddings") for number in range(6)]
    errors = judged(*(line for pair in zip(elsewhere, bad, strict=True) for line in pair))
    assert codes(errors) == [("invalid_url" if line % 2 else "invalid_request", line) for line in range(1, 6)]


def test_too_many_requests_come_first() -> None:
    errors = judged(*(request(str(number), "/v1/embeddings") for number in range(25)))
    assert codes(errors) == [("too_many_tasks", None), *(("invalid_url", line) for line in range(1, 5))]


def test_urls_beyond_those_told_apart_are_wrong_where_the_endpoint_is_among_them() -> None:
    lines = [request(str(number), f"/v1/{number}") for number in range(10)]
    assert codes(judged(*lines[:7], lines[7], lines[8], endpoint="/v1/7"))[:5] == [
        ("invalid_url", line) for line in range(1, 6)
    ]
    many = [request(str(number), "/v1/0") for number in range(10, 12)]
    assert codes(judged(lines[0], *many, *lines[1:8], lines[9], endpoint="/v1/0"))[-1] == ("invalid_url", 8)


def test_urls_beyond_those_told_apart_get_the_benefit_of_the_doubt() -> None:
    scanner = Scanner(Limits(), chunk_lines=500, chunk_bytes=4 << 20)
    scanner.feed(b"\n".join(request(str(number), f"/v1/{number}") for number in range(10)))
    found = scanner.finish()
    assert [line for _, line in codes(judge(found, "/v1/9", Limits()))] == list(range(1, 9))
    assert [line for _, line in codes(judge(found, "/v1/7", Limits()))] == [1, 2, 3, 4, 5, 6, 7, 9, 10]


def test_errors_that_would_not_fit_a_message_are_cut_with_a_word_about_it() -> None:
    limits = Limits(max_line_errors=10_000)
    scanner = Scanner(limits, chunk_lines=500, chunk_bytes=4 << 20)
    name = "x" * 500
    line = b'{"custom_id": "%s", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n' % name.encode()
    scanner.feed(line * 10_000)
    found = judge(scanner.finish(), "/v1/chat/completions", limits)
    assert len(msgspec.json.encode(found)) < 2 << 20
    assert found[-1].line is None
    assert found[-1].message == f"{10_000 - len(found) + 1} more errors are not listed: together they are too long."


def test_every_error_of_the_file_itself_is_told() -> None:
    limits = Limits(max_batch_file_bytes=10, max_batch_lines=1)
    scanner = Scanner(limits, chunk_lines=500, chunk_bytes=4 << 20)
    line = (
        b'{"custom_id": "%d", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": 1}}\n'
    )
    scanner.feed(line % 1 + line % 2)
    found = judge(scanner.finish(), "/v1/chat/completions", limits)
    assert [(error.code, error.line) for error in found] == [("invalid_request", None), ("too_many_tasks", None)]
    assert found[0].message == (
        "The batch input file is larger than the 10 maximum for the m model. Please try again with a smaller batch."
    )
