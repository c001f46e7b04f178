"""JSON as others write it: names that come twice, escapes where none is needed, white space anywhere."""

import json

from hypothesis import strategies as st

NAMES = ["model", "body", "url", "id", "response", "custom_id", "é", 'x"model', "x\\", ""]
_SPACES = st.sampled_from([b"", b"", b" ", b"\t ", b"\r"])
_TEXTS = st.sampled_from(
    ['{"body": {"model": "group"}}', '"model": "group"', '\\"model":"group"', "}]{[", "\u2028é😀", ""]
)


@st.composite
def spelled(draw: st.DrawFn, text: str) -> bytes:
    """A string, with some of its characters escaped that need not be."""
    plain = json.dumps(text, ensure_ascii=draw(st.booleans())).encode()
    if not text or "\\" in plain.decode():
        return plain
    at = draw(st.integers(-2 * len(text), len(text) - 1))
    if at < 0:
        return plain
    escaped = text[at].encode("utf-16-be").hex()
    units = "".join(f"\\u{escaped[n : n + 4]}" for n in range(0, len(escaped), 4))
    return f'"{text[:at]}{units}{text[at + 1 :]}"'.replace('/"', '\\/"').encode()


@st.composite
def joined(draw: st.DrawFn, members: list[tuple[bytes, bytes]]) -> bytes:
    """An object of members that are JSON already."""
    colons = (b"%s%s:%s%s" % (name, draw(_SPACES), draw(_SPACES), value) for name, value in members)
    inside = b",".join(draw(_SPACES) + member + draw(_SPACES) for member in colons)
    return b"{%s}" % (inside or draw(_SPACES))


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[bytes]) -> bytes:
    names = st.sampled_from(NAMES).flatmap(spelled)
    return draw(joined(draw(st.lists(st.tuples(names, values), max_size=4))))


SCALARS = st.sampled_from([b"null", b"true", b"-1.5e+3", b"0"]) | (_TEXTS | st.sampled_from(NAMES)).flatmap(spelled)
VALUES = st.recursive(
    SCALARS,
    lambda values: objects(values) | st.lists(values, max_size=3).map(lambda items: b"[%s]" % b" ,".join(items)),
    max_leaves=12,
)
OBJECTS = objects(VALUES)
