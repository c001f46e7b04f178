"""The name of a file in a Content-Disposition: read from a form's part, and written for a download.

Clients have four ways to write one. RFC 6266 and RFC 8187: `filename*=utf-8''...` counts before `filename`. RFC 2047,
which .NET uses: `filename="=?utf-8?B?...?="`. HTML: `%22`, `%0D` and `%0A` stand for a quote and line breaks. RFC 9110:
a backslash before a quote.
"""

import re
from email.errors import MessageError
from email.header import decode_header, make_header
from urllib.parse import quote, unquote, unquote_to_bytes

_PARAMETER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf';\s*({_PARAMETER_NAME})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"]+)(?=;|$))')
_EXTENDED = re.compile(
    r"(utf-8|iso-8859-1)'[A-Za-z0-9-]*'((?:[!#$&+.^_`|~0-9A-Za-z-]|%[0-9A-Fa-f]{2})+)", re.IGNORECASE
)
_ENCODED_WORD = r"=\?[\w*-]{1,40}\?[BbQq]\?[^?\s]*\?="
_ENCODED = re.compile(rf"{_ENCODED_WORD}(?:\s+{_ENCODED_WORD})*", re.ASCII)
_ESCAPES = re.compile("%(?:22|0[ad])", re.IGNORECASE)
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def filename_in(header: str) -> str | None:
    """The file's name without its path; empty for one that is a path alone, None where none can be read."""
    given = _parameters(header)
    name = _from_extended(given.get("filename*", ""))
    if name is None and "filename" in given:
        name = _from_plain(given["filename"])
    return None if name is None else last_segment(name)


def last_segment(path: str) -> str:
    """What follows the last `/` or `\\`, whichever system wrote the path; empty for `.` and `..`."""
    name = path.replace("\\", "/").rpartition("/")[2]
    return "" if name in {".", ".."} else name


def has_control(name: str) -> bool:
    """Whether it has a character that moves the cursor or ends a line instead of being shown."""
    return _NOT_SHOWN.search(name) is not None


def attachment(name: str) -> str:
    """The header of a download that is to be saved under this name: for old clients in ASCII, and in full."""
    shown = _NOT_SHOWN.sub("", last_segment(name))
    if not shown:
        return "attachment"
    plain = re.sub(r'[^ -~]|["%]', "_", shown)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(shown, safe='')}"


def _parameters(header: str) -> dict[str, str]:
    """By their names in lower case, quotes taken off; of two of a name the first counts."""
    found: dict[str, str] = {}
    for name, quoted, bare in _PARAMETER.findall(header):
        if not (name.endswith("*") and not bare):  # a quoted filename* is none (RFC 8187)
            found.setdefault(name.lower(), bare.strip() or quoted)
    return found


def _from_extended(value: str) -> str | None:
    """RFC 8187, 3.2.1; None where it is not that."""
    match = _EXTENDED.fullmatch(value)
    try:
        return unquote_to_bytes(match[2]).decode(match[1]) if match else None
    except UnicodeDecodeError:
        return None


def _from_plain(value: str) -> str:
    if _ENCODED.fullmatch(value):
        try:
            name = str(make_header(decode_header(value)))
            name.encode()
            return name
        except (MessageError, LookupError, ValueError):
            return value
    # A backslash elsewhere is a path's: browsers send those as they are.
    if '\\"' in value:
        return value.replace('\\"', '"')
    return _ESCAPES.sub(lambda match: unquote(match[0]), value)
