import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from batchyard.common import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where logging goes in a test; afterwards it is as it was."""
    root, ours = logging.getLogger(), logging.getLogger(logs.ROOT)
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    root.handlers = []
    yield io.StringIO()
    root.handlers = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


class TestJson:
    def test_a_record_is_one_line_with_its_fields(self, stream: io.StringIO) -> None:
        logs.configure("info", "json", stream)
        logging.getLogger("batchyard.x").info("did %s\nand", "this", extra={"bytes": 3, "ids": ["a"]})
        (line,) = stream.getvalue().splitlines()
        written = json.loads(line)
        assert written.pop("ts")[-5:].endswith("Z")
        assert written == {
            "level": "info",
            "logger": "batchyard.x",
            "message": "did this\nand",
            "bytes": 3,
            "ids": ["a"],
        }

    def test_a_field_cannot_take_the_place_of_ours(self, stream: io.StringIO) -> None:
        logs.configure("info", "json", stream)
        logging.getLogger("batchyard.x").info("true", extra={"level": "forged", "logger": "forged"})
        written = json.loads(stream.getvalue())
        assert (written["level"], written["logger"], written["message"]) == ("info", "batchyard.x", "true")

    def test_a_traceback_is_a_field(self, stream: io.StringIO) -> None:
        logs.configure("info", "json", stream)
        try:
            raise KeyError("x")
        except KeyError:
            logging.getLogger("batchyard.x").exception("broke")
        (line,) = stream.getvalue().splitlines()
        assert json.loads(line)["traceback"].endswith("KeyError: 'x'")


class TestText:
    def test_a_record_is_one_line_and_cannot_forge_another(self, stream: io.StringIO) -> None:
        logs.configure("info", "text", stream)
        logging.getLogger("batchyard.x").info("did\r\nthis \x1b[31m", extra={"name_of": "a\u2028b"})
        (line,) = stream.getvalue().splitlines()
        assert line.endswith(r" INFO    did\r\nthis \x1b[31m name_of=a\u2028b")


@pytest.mark.parametrize("form", ["json", "text"])
class TestBoth:
    def test_a_line_that_does_not_fit_is_written_as_well_as_it_can(self, stream: io.StringIO, form: str) -> None:
        logs.configure("info", form, stream)
        log = logging.getLogger("batchyard.x")
        log.info("%s and %s", *("one",))
        log.info("%s", Unprintable())
        log.info("fine", extra={"thing": Unprintable(), "other": {1: {2}}})
        lines = stream.getvalue().splitlines()
        assert len(lines) == 3
        assert "%s and %s" in lines[0]
        assert "<Unprintable>" in lines[2]

    def test_a_stream_that_is_gone_breaks_nothing(
        self, stream: io.StringIO, form: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logs.configure("info", form, stream)
        stream.close()
        logging.getLogger("batchyard.x").info("lost")
        assert capsys.readouterr() == ("", "")

    def test_levels_are_ours_and_warning_for_libraries(self, stream: io.StringIO, form: str) -> None:
        logs.configure("debug", form, stream)
        logging.getLogger("batchyard.x").debug("ours")
        logging.getLogger("httpx").info("theirs")
        logging.getLogger("httpx").warning("loud")
        logs.configure("error", form, stream)
        logging.getLogger("batchyard.x").warning("quiet")
        logging.getLogger("httpx").warning("quiet")
        written = stream.getvalue()
        assert [word in written for word in ("ours", "loud", "theirs", "quiet")] == [True, True, False, False]


def test_stderr_is_the_default(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logging.getLogger("batchyard.x").info("here")
    assert "here" in capsys.readouterr().err
    assert sys.stderr is not stream
