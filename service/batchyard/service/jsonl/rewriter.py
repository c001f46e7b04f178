"""Input lines on their way to a deployment: they get its name for the model, and keep every other byte."""

import re

from msgspec.json import Decoder, Encoder

from batchyard.service.jsonl.filled_lines import change_filled
from batchyard.service.jsonl.json_spans import Edit, edited, span, written_plainly
from batchyard.service.jsonl.request_line import Line

_KEY = re.compile(rb'"model"\s*+:')
_URL = re.compile(rb'"url"\s*+:\s*+"')
_FEW = 16  # texts "model" a line
_encode = Encoder().encode
_decode_lines = Decoder(Line).decode_lines
_decode_string = Decoder(str).decode


class Rewriter:
    """Renames the model of requests from the group's name to `model`; `prefixed`: and gives their urls a leading /v1.

    It takes whole lines that a scan found good, the more the faster; the last may lack its newline. A line that doesn't
    name the group comes back as it was.
    """

    def __init__(self, group: str, model: str, *, prefixed: bool) -> None:
        self._group = group
        self._model = _encode(model)
        self._prefixed = prefixed
        self._named = re.compile(rb'("model"\s*+:\s*+)' + re.escape(_encode(group)))

    def __call__(self, lines: bytes) -> bytes:
        together = self._at_once(lines)
        return change_filled(lines, self._line) if together is None else together

    def _at_once(self, lines: bytes) -> bytes | None:
        """Rewrites lines of which each names the group and has one member "model", wherever; None where one doesn't."""
        try:
            read = _decode_lines(lines)
        except (ValueError, RecursionError):
            return None
        if not (all(line.body.model == self._group for line in read) and written_plainly(lines)):
            return None
        if not _has_one_model_each(lines, len(read)):
            return None
        renamed, count = self._named.subn(lambda named: named[1] + self._model, lines)
        return self._urls_at_once(renamed, read) if count == len(read) else None

    def _urls_at_once(self, lines: bytes, read: list[Line]) -> bytes | None:
        bare = sum(not line.url.startswith("/v1/") for line in read)
        if not (self._prefixed and bare):
            return lines
        prefixed, count = _URL.subn(lambda url: url[0] + b"/v1", lines, bare + 1)
        return prefixed if count == bare else None  # each line has one at least, so all are bare and have no other

    def _line(self, line: bytes) -> bytes:
        together = self._at_once(line)
        return self._by_spans(line) if together is None else together

    def _by_spans(self, line: bytes) -> bytes:
        model, url = span(line, ("body", "model")), span(line, ("url",))
        if model is None or _string(line, model) != self._group:
            return line
        edits = [Edit(*model, self._model)]
        if self._prefixed and url and not (_string(line, url) or "").startswith("/v1/"):
            edits.append(Edit(url[0] + 1, url[0] + 1, b"/v1"))
        return edited(line, edits)


def _has_one_model_each(lines: bytes, count: int) -> bool:
    """Whether so many lines, of which each has a member "model", have no other; a line of mebibytes may have a million.

    Such ones, which are not worth listing, have not.
    """
    names = lines.count(b'"model"')
    return names == count or (names <= _FEW * count and len(_KEY.findall(lines)) == count)


def _string(line: bytes, place: tuple[int, int]) -> str | None:
    value = line[slice(*place)]
    return _decode_string(value) if value.startswith(b'"') else None
