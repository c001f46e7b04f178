"""Forms, read in pieces of any size."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.http.forms import FormReader, Part

DELIMITER = b"\r\n--b0undary"
FILES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n--b0und", b"x", b"y" * 40, b"--"])).map(b"".join)


@given(contents=st.lists(FILES, min_size=1, max_size=3), size=st.integers(1, 60))
def test_a_file_is_read_as_it_was_sent_however_the_form_is_cut(contents: list[bytes], size: int) -> None:
    parts = [b'%b\r\ncontent-disposition: form-data; name="file"\r\n\r\n%b' % (DELIMITER, one) for one in contents]
    form = (b"".join(parts) + DELIMITER + b"--\r\n")[2:]
    reader = FormReader({"content-type": "multipart/form-data; boundary=b0undary"}, len(contents))
    found: list[Any] = []
    for start in range(0, len(form), size):
        found += reader.feed(form[start : start + size])
    reader.close()
    read: list[bytes] = []
    for event in found:
        if isinstance(event, Part):
            read.append(b"")
        elif event is not None:
            read[-1] += event
    assert read == contents
    assert found.count(None) == len(contents)
