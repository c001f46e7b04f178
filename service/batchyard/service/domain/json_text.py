"""JSON that others wrote: kept to the digit where RFC 8259 permits it, and what is wrong with it where not.

A byte order mark may stand before it (section 8.1), halves of surrogate pairs may stand in it (8.2), numbers may have
any length (6), and a name may come twice (4). NaN and infinities, and bytes that are not UTF-8, may not. Section 9 lets
a reader bound the depth: what has more levels than Python's stack takes, about 1,000, is refused.
"""

import json
import re
from codecs import BOM_UTF8
from typing import Any, NoReturn

import msgspec

_SPACE = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")|[ \t\r\n]++', re.DOTALL)
_MOST_DIGITS = 300


class NotJSON(Exception):
    """Bytes that can't be read; `reason` says why, and quotes nothing of them."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def compact(data: bytes) -> bytes:
    """The same value without white space around its parts, and otherwise byte for byte. Raises NotJSON."""
    try:
        if not data.isascii():
            data.decode()
        return msgspec.json.format(data, indent=-1)
    except (ValueError, RecursionError):
        parse(data)
    return _SPACE.sub(rb"\1", data.removeprefix(BOM_UTF8))


def parse(data: bytes) -> Any:
    """The value, in which a number beyond a float's range is infinite. Slower than msgspec. Raises NotJSON."""
    try:
        text = data.decode("utf-8-sig")
        if not text.strip(" \t\r\n"):
            raise NotJSON("it is empty")
        return json.loads(text, parse_constant=_refuse, parse_int=_integer)
    except UnicodeDecodeError:
        raise NotJSON("it is not in UTF-8") from None
    except json.JSONDecodeError as error:
        raise NotJSON(f"{error.msg.lower().removesuffix(' at')} at character {error.pos + 1}") from None
    except RecursionError:
        raise NotJSON("it is nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise NotJSON(f"{constant} is no value of JSON")


def _integer(digits: str) -> float:
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)
