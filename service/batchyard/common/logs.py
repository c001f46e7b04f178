"""Logging as both processes do it: one line a record, as JSON or as text for a person.

Fields come by `extra`: `log.info("uploaded", extra={"bytes": size})`. Writing a line never raises, whatever is in it.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

ROOT = "batchyard"
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Sends all logging to `stream` (stderr): ours from `level` on, that of libraries from WARNING on.

    `level` is a name of logging's in any case, `form` is "json" or "text". Called once, by the command.
    """
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    # What no line of ours shows is not looked for: a record would walk the stack for it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as logging's own documentation has it
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger(ROOT).setLevel(number)


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """A line that can't be written is dropped: there is nowhere left to say so."""


class JsonFormatter(logging.Formatter):
    """`{"ts": ISO 8601 in UTC, "level": ..., "logger": ..., "message": ..., FIELDS, "traceback": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        trace = {"traceback": self.formatException(record.exc_info)} if record.exc_info else {}
        return _encode(_fields(record) | line | trace)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL message  name=value ...`, and the traceback on the lines after it."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_one_line(_text(value))}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname:7} {_one_line(_message(record))}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03}Z"


@lru_cache(maxsize=2)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that don't fit the message are a defect, but no reason to fail a request
        return _text(record.msg)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {str(name): value for name, value in vars(record).items() if name not in _STANDARD}


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _one_line(text: str) -> str:
    """`text` with what could forge a line or drive a terminal written as escapes."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


_encode = json.JSONEncoder(default=_text).encode
