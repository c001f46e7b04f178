"""Names of files as clients write them (RFC 6266, 8187, 2047 and 9110, HTML), and as downloads do."""

from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.http.disposition import attachment, filename_in, has_control, last_segment

DOTNET = "=?utf-8?B?5pel5pysLmpzb25s?="


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ('filename="a.jsonl"', "a.jsonl"),
        ("filename=a.jsonl", "a.jsonl"),
        ('FileName = "a.jsonl"', "a.jsonl"),
        ("filename*=utf-8''%E6%97%A5%E6%9C%AC.jsonl", "日本.jsonl"),
        ("FILENAME*=UTF-8'en-US'na%C3%AFve.jsonl", "naïve.jsonl"),
        ("filename*=iso-8859-1''na%EFve.jsonl", "naïve.jsonl"),
        (f"filename=\"{DOTNET}\"; filename*=utf-8''%E6%97%A5%E6%9C%AC.jsonl", "日本.jsonl"),
        ("filename*=utf-8''b.jsonl; filename=\"a.jsonl\"", "b.jsonl"),
        (f'filename="{DOTNET}"', "日本.jsonl"),
        ('filename="=?ISO-8859-1?Q?na=EFve.jsonl?="', "naïve.jsonl"),
        ('filename="=?moon?B?5pel?="', "=?moon?B?5pel?="),
        ('filename="=?unicode_escape?Q?=5Cud800?="', "=?unicode_escape?Q?=5Cud800?="),
        ('filename="日本.jsonl"', "日本.jsonl"),
        (r'filename="a\"b.jsonl"', 'a"b.jsonl'),
        ('filename="a%22b.jsonl"', 'a"b.jsonl'),
        ('filename="100%25.jsonl"', "100%25.jsonl"),
        ("filename*=utf-8''a%22b%25.jsonl", 'a"b%.jsonl'),
        ('filename="a;b.jsonl"; x=1', "a;b.jsonl"),
        ('x="; filename=no"; filename="a.jsonl"', "a.jsonl"),
        (r'x="\"; filename=\"no\""; filename="a.jsonl"', "a.jsonl"),
        ('filename="a.jsonl"; filename="b.jsonl"', "a.jsonl"),
        ('filename=""', ""),
        ("filename*0=a; filename*1=b", None),
        ("", None),
    ],
)
def test_a_name_is_read_whichever_way_it_is_written(parameters: str, name: str | None) -> None:
    assert filename_in(f'form-data; name="file"; {parameters}') == name


@pytest.mark.parametrize(
    "value",
    [
        "b.jsonl", "utf-8'b.jsonl", "utf-8''", "utf-8''%E6%97", "utf-8''%ZZ.jsonl", "utf-8''%", "moon''b.jsonl",
        "utf-8''%ED%A0%80", "\"utf-8''b.jsonl\"", "utf-8''b c.jsonl", "utf-8''日.jsonl", "utf-16''b.jsonl",
    ],
)  # fmt: skip
def test_where_the_extended_name_is_malformed_the_plain_one_counts(value: str) -> None:
    for header in (
        f'form-data; filename="a.jsonl"; filename*={value}',
        f'form-data; filename*={value}; filename="a.jsonl"',
    ):
        assert filename_in(header) == "a.jsonl"
    assert filename_in(f"form-data; filename*={value}") is None


@pytest.mark.parametrize(
    "path",
    [
        'filename="C:\\fakepath\\a.jsonl"', 'filename="/tmp/a.jsonl"', 'filename="../../a.jsonl"',
        "filename*=utf-8''..%2F..%2Fa.jsonl", "filename*=utf-8''C%3A%5Ctemp%5Ca.jsonl", 'filename="a\\\\a.jsonl"',
    ],
)  # fmt: skip
def test_of_a_path_the_last_segment_counts(path: str) -> None:
    assert filename_in(f'form-data; name="file"; {path}') == "a.jsonl"


@pytest.mark.parametrize("path", ["", ".", "..", "/", "a/", "a/..", "\\"])
def test_a_path_without_a_last_segment_is_no_name(path: str) -> None:
    assert last_segment(path) == ""


@pytest.mark.parametrize("escaped", ["%0D", "%0a", "%00", "%7F", "%C2%85", "%E2%80%A8"])
def test_control_characters_are_seen_when_they_are_decoded(escaped: str) -> None:
    assert has_control(filename_in(f"form-data; filename*=utf-8''a{escaped}b") or "")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_of_a_download_is_one_line_that_reads_back(name: str) -> None:
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    shown = "".join(char for char in last_segment(name) if not has_control(char))
    assert (filename_in(header) or "") == last_segment(shown)
    message = Message()
    message["content-disposition"] = header
    assert (message.get_filename() or "").isprintable() or not shown.isprintable()


@given(st.text())
def test_any_header_is_read_without_an_error(text: str) -> None:
    for header in (
        text,
        f'form-data; filename="{text}"',
        f"form-data; filename*=utf-8''{text}",
        f"form-data; filename==?{text}?=",
    ):
        filename_in(header)
