"""What of RFC 8259 is kept, to the byte, and what is said of everything else."""

import json
from codecs import BOM_UTF8

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.service.domain.json_text import NotJSON, compact, parse

KEPT = [
    rb'{"a":"\ud800"}',
    rb'{"a":"\udc00\ud83d x \\","b":"\ud83d\ude00"}',
    b'{"a":1,"a":2}',
    b'{"a":%s.5e3,"b":-%s}' % (b"9" * 400, b"1" * 5000),
    b'{"a":1e309,"b":-0.0}',
    b'{"a":"\xe2\x80\xa8\x7f\xf0\x9f\x98\x80"}',
    b"[" * 900 + b"]" * 900,
    b'{"":null}',
    b"7",
]


@pytest.mark.parametrize("data", KEPT, ids=lambda data: repr(data[:24]))
def test_what_the_rfc_permits_stays_to_the_byte(data: bytes) -> None:
    assert compact(data) == compact(b" \r\n\t" + data + b"\n") == data
    assert compact(BOM_UTF8 + data) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (BOM_UTF8 + b" \n", "it is empty"),
        (b'{"a":NaN}', "NaN is no value of JSON"),
        (b'{"a":[-Infinity]}', "-Infinity is no value of JSON"),
        (b'{"a":"\xff"}', "it is not in UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "it is not in UTF-8"),
        (b'{"a":1', "expecting ',' delimiter at character 7"),
        (b'{"a":"x', "unterminated string starting at character 6"),
        (b'{"a":1} {"b":2}', "extra data at character 9"),
        (b'{"a":1}\x00', "extra data at character 8"),
        (b'{"a":"\x01"}', "invalid control character at character 7"),
        (b"<html>", "expecting value at character 1"),
        (b"[" * 50_000 + b"]" * 50_000, "it is nested too deeply"),
    ],
    ids=lambda value: repr(value[:16]),
)
def test_what_it_does_not_permit_is_said(data: bytes, reason: str) -> None:
    for read in (compact, parse):
        with pytest.raises(NotJSON) as caught:
            read(data)
        assert caught.value.reason == reason


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=4), values, max_size=3),
)


@given(value=VALUES, indent=st.none() | st.integers(0, 3), escaped=st.booleans())
def test_the_slow_way_and_the_fast_one_agree(value: object, indent: int | None, escaped: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped).encode(errors="surrogatepass")
    try:
        text.decode()
    except UnicodeDecodeError:
        return
    short = json.dumps(value, separators=(",", ":"), ensure_ascii=escaped).encode()
    assert compact(text) == compact(BOM_UTF8 + text) == short
    assert parse(text) == value
