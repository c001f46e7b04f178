from tests.bad_input.page import page
from tests.processes import ROOT


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/bad-inputs.md").read_text() == page(), "run make bad-inputs"
