"""The blocks of the documentation that somebody may paste, and what becomes of each in the tests."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.processes import ROOT

# Written from the cases of tests/bad_input.
GENERATED = {"docs/bad-inputs.md"}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|(?:(?<=\n\n)|\A)((?:    [^\n]*\n|\n(?=    ))+)", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a `language`, or an indented one without."""

    page: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page = str(path.relative_to(ROOT))
        if page not in GENERATED:
            for language, fenced, indented in _BLOCK.findall(path.read_text()):
                yield Block(page, language, fenced or re.sub("^    ", "", indented, flags=re.MULTILINE))


def block(page: str, start: str) -> str:
    """The text of the one block of a page that starts so."""
    (found,) = (one.text for one in blocks() if one.page == page and one.text.startswith(start))
    return found
