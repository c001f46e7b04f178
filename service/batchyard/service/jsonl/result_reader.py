"""Result lines on their way back from a deployment: what they say, and how they go into the batch's own files."""

from codecs import BOM_UTF8
from typing import Any

from msgspec import UNSET, Struct
from msgspec.json import Decoder, Encoder

from batchyard.service.domain.json_text import NotJSON, parse
from batchyard.service.domain.records import Kind
from batchyard.service.jsonl.json_spans import Edit, edited, first_string, span, string_span
from batchyard.service.jsonl.line_index import LineIndex
from batchyard.service.jsonl.results import CANCELLED, EXPIRED, NO_TOKENS, Failure, Result, result, result_id, tokens_of

RESULT_MISSING = Failure("result_missing", "The provider returned no result for this request.")

_MODEL = ("response", "body", "model")
_UNFINISHED = (CANCELLED.code, EXPIRED.code)


class _ResultBody(Struct, gc=False):
    model: Any = None
    usage: Any = None


class _Response(Struct, gc=False):
    status_code: Any = None
    body: _ResultBody | None = None


class _Error(Struct, gc=False):
    code: Any = None


class _Line(Struct, gc=False):
    """The members of a result that matter; any others are only checked to be JSON."""

    custom_id: str
    id: Any = UNSET
    response: _Response | None = None
    error: _Error | None = None


_decode = Decoder(_Line).decode
_encode = Encoder().encode
_NO_BODY = _ResultBody()


class ResultReader:
    """Reads the result files of a shard, whose lines `index` knows; each line has one result, the first.

    Where `stopped` is given, that is why we cancelled the shard: it takes the place of what the deployment says of
    lines that did not run. Where it isn't, lines that somebody else cancelled have failed. `dropped` counts what was no
    result of a line that waits for one, `unreadable` those of them that are no JSON, and so may have been one.
    """

    def __init__(self, batch_id: str, group: str, index: LineIndex, *, stopped: Failure | None) -> None:
        self.dropped = 0
        self.unreadable = 0
        self._faults: dict[str, str] = {}
        self.batch_id = batch_id
        self._group = _encode(group)
        self._index = index
        self._stopped = stopped

    def read(self, data: bytes, *, succeeded: bool) -> Result | None:
        """Reads one line of the output file (`succeeded`) or of the error file; None: it is dropped."""
        data = data.removeprefix(BOM_UTF8)
        found = self._parsed(data)
        number = self._index.take(found.custom_id) if found else None
        if found is None or number is None:
            self.dropped += 1
            return None
        kind = _kind(found, succeeded)
        if kind is Kind.NOT_RUN and self._stopped:
            return result(self.batch_id, number, found.custom_id, self._stopped, ran=False)
        if kind is Kind.NOT_RUN and found.error and found.error.code == CANCELLED.code:
            kind = Kind.FAILED
        tokens = tokens_of(_body(found).usage) if kind is Kind.COMPLETED else NO_TOKENS
        return Result(number, kind, tokens, self._text(data.rstrip(b"\n"), number, found))

    def failure(self, custom_id: str, rest: Failure) -> Failure:
        """What to say of a line for which no result was read: `rest`, or that its result can't be read."""
        reason = self._faults.get(custom_id)
        if reason:
            return Failure("invalid_response", f"The provider's result for this request can't be read: {reason}.")
        if self.unreadable and rest is RESULT_MISSING:
            message = f"The provider's results have none for this request, and {self.unreadable} that can't be read."
            return Failure("invalid_response", message)
        return rest

    def _parsed(self, data: bytes) -> _Line | None:
        try:
            return _read(data)
        except NotJSON as error:
            self.unreadable += 1
            custom_id = first_string(data, "custom_id")
            if custom_id is not None and len(self._faults) < len(self._index):
                self._faults[custom_id] = error.reason
            return None

    def _text(self, data: bytes, number: int, found: _Line) -> bytes:
        edits = []
        if isinstance(_body(found).model, str) and (place := string_span(data, _MODEL)):
            edits.append(Edit(*place, self._group))
        identity = b'"%s"' % result_id(self.batch_id, number)
        if found.id is UNSET:
            start = data.index(b"{") + 1
            edits.append(Edit(start, start, b'"id":%s,' % identity))
        elif not isinstance(found.id, str) and (place := span(data, ("id",))):
            edits.append(Edit(*place, identity))
        return edited(data, edits) + b"\n"


def _read(data: bytes) -> _Line | None:
    """What a line says; None where it is no result. Raises NotJSON."""
    try:
        if not data.isascii():
            data.decode()
        return _decode(data)
    except (ValueError, RecursionError):
        return _read_leniently(data)


def _read_leniently(data: bytes) -> _Line | None:
    """Takes halves of surrogate pairs, and members of other types than they should be. Raises NotJSON."""
    found = parse(data)
    if not isinstance(found, dict) or not isinstance(found.get("custom_id"), str):
        return None
    response, error = _object(found, "response"), _object(found, "error")
    body = _object(response, "body")
    return _Line(
        found["custom_id"],
        found.get("id", UNSET),
        _Response(response.get("status_code"), _ResultBody(body.get("model"), body.get("usage"))) if response else None,
        _Error(error.get("code")) if error else None,
    )


def _kind(found: _Line, succeeded: bool) -> Kind:
    """Tells what became of a line, in the output file (`succeeded`) or the error file."""
    if not succeeded:
        return Kind.NOT_RUN if found.error and found.error.code in _UNFINISHED else Kind.FAILED
    if found.response is None and found.error:
        return Kind.FAILED
    status = found.response.status_code if found.response else None
    return Kind.FAILED if isinstance(status, int) and status >= 400 else Kind.COMPLETED


def _body(found: _Line) -> _ResultBody:
    return (found.response and found.response.body) or _NO_BODY


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}
