"""What a scan costs whatever comes: calls are counted, and bytes that are held, since a clock tells little."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from tests.costs import calls_of

from batchyard.service.config.settings import Limits
from batchyard.service.jsonl.request_line import Fault, Request, embedding_inputs, lines, read_good_line, read_line
from batchyard.service.jsonl.scanner import Scan, Scanner

MIB = 1 << 20
PIECE = 512 << 10
GOOD = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}\n'
HEAD = b'{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":'
LARGE = 14_000_000


def scanner(**limits: int) -> Scanner:
    return Scanner(Limits(**limits), chunk_lines=500, chunk_bytes=4 * MIB)


def feed(scan: Scanner, data: bytes) -> None:
    for at in range(0, len(data), PIECE):
        scan.feed(data[at : at + PIECE])


def filled(unit: bytes, size: int = 4 * MIB) -> bytes:
    return unit * (size // len(unit))


@pytest.mark.parametrize(
    "unit", [b"\n", b"\r\n", b" \n", b" \t\r\n", b"\n\r\n \n", b" "], ids=["lf", "crlf", "sp", "ws", "mixed", "one"]
)
def test_blank_lines_cost_nothing_a_line(unit: bytes) -> None:
    scan = scanner()
    data = GOOD + filled(unit) + b"\n" + GOOD
    assert calls_of(lambda: feed(scan, data)) < 500
    found = scan.finish()
    assert (found.lines, found.bytes) == (2, len(data))
    assert [error.code for error in found.errors] == ["duplicate_custom_id"]
    assert found.errors[0].line == 3 + filled(unit).count(b"\n")


@pytest.mark.parametrize("unit", [b"1\n", b"{}\n", b"\x0b\n", b"\n1\n \n{}\r\n", GOOD], ids=str)
def test_lines_beyond_the_limit_are_counted_and_cost_nothing_a_line(unit: bytes) -> None:
    scan = scanner(max_batch_lines=100, max_line_errors=5)
    data = filled(unit)
    assert calls_of(lambda: feed(scan, data)) < 100 * 40
    found = scan.finish()
    expected = sum(bool(line.strip(b" \t\r")) for line in data.split(b"\n"))
    assert found.lines == expected
    message = f"The batch input file has {expected} requests, more than the maximum of 100."
    assert (found.errors[0].code, found.errors[0].message) == ("too_many_tasks", message)
    assert len(found.errors) <= 1 + 5
    assert sum(chunk.requests for chunk in found.chunks) == 100


@pytest.mark.parametrize(
    "line", [b"1", b"{}", b"{" * 100, GOOD.replace(b'"a"', b"1").strip()], ids=["1", "{}", "{", "id"]
)
def test_faults_that_nobody_is_told_of_are_not_looked_into(line: bytes) -> None:
    def judged(read: Callable[[bytes], Any]) -> int:
        def work() -> None:
            for _ in range(100):
                with pytest.raises(Fault):
                    read(line)

        return calls_of(work)

    assert judged(read_good_line) < judged(read_line)
    scan = scanner(max_line_errors=3)
    first = calls_of(lambda: scan.feed((line + b"\n") * 3))
    later = calls_of(lambda: scan.feed((line + b"\n") * 300))
    assert later < 100 * first
    assert [error.line for error in scan.finish().errors] == [1, 2, 3]


def members(count: int) -> bytes:
    return b",".join(b'"k%06d":1' % number for number in range(count))


LINES = {
    "five million numbers": HEAD + b"[" + b"1," * (LARGE // 2) + b"1]}}",
    "empty texts": HEAD + b"[" + b'"",' * (LARGE // 3) + b'""]}}',
    "texts of escapes": HEAD + b"[" + b'"\\\\\\"",' * (LARGE // 7) + b'""]}}',
    "lists": HEAD + b"[" + b"[]," * (LARGE // 3) + b"[]]}}",
    "members of the line": b"{" + members(1_200_000) + b"," + GOOD.strip()[1:],
    "members of the body": HEAD + b'"x",' + members(1_200_000) + b"}}",
    "members of a bad line": b'{"custom_id":"a","method":"POST","url":1,"body":{' + members(1_200_000) + b"}}",
    "members alone": b"{" + members(1_200_000) + b"}",
    "a text beyond ASCII": HEAD + b'"' + "\U0001f600".encode() * (LARGE // 4) + b'"}}',
    "a custom_id": b'{"custom_id":"' + "\U0001f600".encode() * (LARGE // 4) + GOOD.strip()[15:],
    "a url": GOOD.strip().replace(b"/v1/chat/completions", "\U0001f600".encode() * (LARGE // 4)),
    "a method": GOOD.strip().replace(b"POST", b"\\u0050" * (LARGE // 6)),
    "a model": GOOD.strip().replace(b'"m"', b'"' + b"m" * LARGE + b'"'),
    "brackets": b"[" * LARGE,
    "half a line": HEAD + b"[" + b"1," * (LARGE // 2),
    "blanks": b" " * LARGE,
    "a number": HEAD + b"1" * LARGE + b"}}",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_large_line_takes_little_more_memory_than_its_bytes(line: bytes) -> None:
    scan = scanner()
    tracemalloc.start()
    try:
        feed(scan, line)
        scan.feed(b"\n")
        found = scan.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(line) * 1.2 + 4 * MIB
    assert isinstance(found, Scan)
    assert len(str(found)) < 10_000


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a custom_id", "string_above_max_length"),
        ("a url", "invalid_url"),
        ("a method", "string_above_max_length"),
        ("a model", "string_above_max_length"),
        ("members of a bad line", "invalid_type"),
        ("members alone", "missing_required_parameter"),
        ("half a line", "invalid_json_line"),
        ("texts of escapes", "too_many_tasks"),
    ],
)
def test_a_large_line_is_judged_like_any_other(name: str, code: str) -> None:
    scan = scanner()
    feed(scan, LINES[name])
    assert [error.code for error in scan.finish().errors] == [code]


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (b'"one"', 1),
        (b"[1,2,3]", 1),
        (b"[]", 1),
        (b"null", 1),
        (b'["a","b,[]"]', 2),
        (b'[ "a\\"b" , "\\\\" , "c\\\\\\"" ]', 3),
        (b" [\n[1,2],[3] ]", 2),
        (b"[[]]", 1),
        (b'["' + b"\\\\" * 200_000 + b'","' + b'\\"' * 200_000 + b'"]', 2),
        (b"[" + b'"x",' * 200_000 + b'"x"]', 200_001),
    ],
    ids=range(10),
)
def test_inputs_of_embeddings_are_counted_without_building_them(value: bytes, count: int) -> None:
    assert embedding_inputs(read_line(HEAD + value + b"}}").body) == count


def test_requests_are_found_among_blank_lines_at_no_cost_a_line() -> None:
    data = b"\n" * MIB + GOOD + b" \r\n" * MIB + GOOD + b"\n" * MIB
    found: list[Request] = []
    assert calls_of(lambda: found.extend(lines(data, 5))) < 100
    assert [request.line_number for request in found] == [MIB + 5, 2 * MIB + 6]


def test_the_errors_of_a_bad_file_are_as_many_as_are_told_and_short() -> None:
    scan = scanner(max_line_errors=100)
    feed(scan, filled(b"\xff" * 5000 + b"\n", 20 * MIB))
    found = scan.finish()
    assert len(found.errors) == 100
    assert max(len(error.message) for error in found.errors) < 200
