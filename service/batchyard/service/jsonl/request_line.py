"""One line of a batch's input: what it must look like, and what is said where it doesn't.

Codes, params and messages are OpenAI's where they are known; those for wrong types, lengths and values are worded as
its API words them elsewhere. JSON is RFC 8259 in UTF-8: NaN, Infinity, control characters in strings and escapes of
half a surrogate pair are refused, since no provider takes them. Of a name that comes twice the last value counts.
"""

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, NamedTuple

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType
from msgspec.json import Decoder

from batchyard.service.errors import DataLoss
from batchyard.service.jsonl.filled_lines import filled_lines

MAX_CUSTOM_ID = 512
MAX_MODEL = 256
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
NAMES = {
    CHAT: "Chat Completions",
    "/v1/completions": "Completions",
    EMBEDDINGS: "Embeddings",
    "/v1/moderations": "Moderations",
    "/v1/responses": "Responses",
}

_ABSENT = Raw()
_SHORTEST = len('{"custom_id":"a","method":"POST","url":"","body":{}}')
_LARGE = 1 << 20
_MOST_TEXT = 64 << 10  # bytes of a member that is read as a text; the longest that is valid has some 3 KiB
_PIECE = 256 << 10  # what is looked at in one go of a line that may have many mebibytes
_FIRST_INPUT = re.compile(rb'\[[ \t\r\n]*+(["\[])')
_BACKSLASH = ord("\\")
_Utf8 = getincrementaldecoder("utf-8")


class Fault(Exception):
    """What is wrong with a line."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class RequestBody(Struct, gc=False):
    """The members of a request's body that matter before it runs; any others are only checked to be JSON."""

    model: Annotated[str, Meta(max_length=MAX_MODEL)] | UnsetType | None = UNSET
    stream: Raw = _ABSENT
    messages: Raw = _ABSENT
    input: Raw = _ABSENT
    prompt: Raw = _ABSENT
    instructions: Raw = _ABSENT
    tools: Raw = _ABSENT
    functions: Raw = _ABSENT
    response_format: Raw = _ABSENT


class Line(Struct, gc=False):
    """A line that is built as it must be."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=MAX_CUSTOM_ID)]
    method: Literal["POST"]
    url: str
    body: RequestBody


class Request(NamedTuple):
    """A request of a batch's input; `body` is its JSON, byte for byte."""

    line_number: int
    custom_id: str
    url: str
    body: bytes


def endpoint_of(url: str) -> str:
    """Returns a line's url in its one form: `/chat/completions` is `/v1/chat/completions`."""
    return url if url.startswith("/v1/") else "/v1" + url


def read_line(data: bytes | bytearray) -> Line:
    """Reads a line, of which nothing is built but the members that matter, however large it is. Raises Fault."""
    try:
        if not data.isascii():
            _check_utf8(data)
        if len(data) > _LARGE:
            _check_texts(data)
        return _decode_line(data)
    except (DecodeError, RecursionError, UnicodeDecodeError):
        return _read_slowly(data)


def read_good_line(data: bytes | bytearray) -> Line:
    """Reads a line as `read_line` does. Raises Fault, which does not say what is wrong, and costs little."""
    if len(data) >= _SHORTEST:
        try:
            if not data.isascii():
                _check_utf8(data)
            if len(data) > _LARGE:
                _check_texts(data)
            return _decode_line(data)
        except (DecodeError, RecursionError, UnicodeDecodeError):
            pass
    raise Fault("invalid_json_line", "This line is not a request.")


def is_json(data: bytes | bytearray) -> bool:
    """Tells whether a line is JSON at all."""
    try:
        if not data.isascii():
            _check_utf8(data)
        _decode_any(data)
    except (DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def check_body(body: RequestBody, endpoint: str) -> None:
    """Raises Fault where a body lacks what its endpoint needs, or asks for a stream."""
    if not body.model and endpoint != "/v1/moderations":
        raise Fault("invalid_request", "Model parameter is required.", "body.model")
    if len(body.messages) < 5 and endpoint == CHAT and bytes(body.messages) in {b"", b"null"}:
        raise Fault("invalid_request", "Messages parameter is required.", "body.messages")
    if len(body.stream) == 4 and bytes(body.stream) == b"true":
        name = f"{NAMES[endpoint]}: " if endpoint in NAMES else ""
        raise Fault("streaming_unsupported", f"{name}Streaming is not supported in the Batch API.", "body.stream")


def prompt_bytes(body: RequestBody) -> int:
    """Returns how many bytes of JSON the prompt has, with all that goes into it."""
    asked = len(body.messages) + len(body.input) + len(body.prompt)
    if body.instructions is body.tools is body.functions is body.response_format is _ABSENT:  # as nearly always
        return asked
    return asked + len(body.instructions) + len(body.tools) + len(body.functions) + len(body.response_format)


def embedding_inputs(body: RequestBody) -> int:
    """Returns how many texts, or lists of tokens, an embeddings request has, without building them.

    Of an array that mixes them, which no provider takes, those count that are of the first one's kind, at any depth.
    """
    first = _FIRST_INPUT.match(memoryview(body.input))
    if first is None:
        return 1
    if first[1] == b"[":
        return sum(piece.count(b"[") for piece in _pieces(body.input)) - 1
    return sum(map(_quotes, _pieces(body.input))) // 2


def count_values(data: bytes, most: int) -> int:
    """Returns about how many texts, numbers, arrays and objects some JSON holds, never too few; above `most` any.

    Builds none of them, and takes nanoseconds a byte.
    """
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    texts = data.count(b'"') // 2
    if texts > most:
        return texts
    outside = b"".join(data.split(b'"')[::2])
    return 1 + texts + sum(map(outside.count, (b",", b"[", b"{")))


def lines(data: bytes, first_line_number: int) -> Iterator[Request]:
    """Reads the requests of whole lines that a scan found good; `first_line_number` is that of the first line.

    Raises DataLoss where a line can't be read: then these are not the bytes that were scanned.
    """
    for number, line in filled_lines(data, first_line_number):
        with _damaged(number):
            raw = _decode_request(line)
            custom_id, url = _decode_string(raw.custom_id), _decode_string(raw.url)
        yield Request(number, custom_id, url, bytes(raw.body))


def _check_utf8(data: bytes | bytearray) -> None:
    """Raises UnicodeDecodeError. A text of a whole line would take up to four times its bytes."""
    decoder = _Utf8()
    for at in range(0, len(data), _PIECE):
        decoder.decode(data[at : at + _PIECE])
    decoder.decode(b"", final=True)


def _check_texts(data: bytes | bytearray) -> None:
    """Raises Fault for a text that is much too long, before it is built: it would take four times its bytes."""
    members = _decode_members(data)
    model = _decode_body(members.body).model if bytes(memoryview(members.body)[:1]) == b"{" else _ABSENT
    if len(members.url) > _MOST_TEXT:
        _check_type(members.url, "url", "a string")
        raise Fault("invalid_url", "The URL provided for this request does not match the batch endpoint.", "url")
    bounds = (
        ("custom_id", members.custom_id, MAX_CUSTOM_ID),
        ("method", members.method, 4),
        ("body.model", model, MAX_MODEL),
    )
    for name, raw, longest in bounds:
        if len(raw) > _MOST_TEXT:
            _check_type(raw, name, "a string")
            raise _too_long(name, longest, f"a string of {len(raw)} bytes")


def _pieces(value: Raw) -> Iterator[bytes]:
    """The bytes of a value, in pieces between which no escape is cut."""
    view = memoryview(value)
    at = 0
    while at < len(view):
        end = min(at + _PIECE, len(view))
        while view[end - 1] == _BACKSLASH:
            end += 1
        yield bytes(view[at:end])
        at = end


def _quotes(piece: bytes) -> int:
    """How many quotes begin or end a text."""
    escaped = piece.replace(b"\\\\", b"").count(b'\\"') if b"\\" in piece else 0
    return piece.count(b'"') - escaped


class _RawRequest(Struct, gc=False):
    custom_id: Raw
    url: Raw
    body: Raw


class _Members(Struct, gc=False):
    """A line's members whatever they are: a mapping would hold all those too that nobody asks for."""

    custom_id: Raw = _ABSENT
    method: Raw = _ABSENT
    url: Raw = _ABSENT
    body: Raw = _ABSENT


class _BodyMembers(Struct, gc=False):
    model: Raw = _ABSENT
    stream: Raw = _ABSENT
    messages: Raw = _ABSENT
    input: Raw = _ABSENT
    prompt: Raw = _ABSENT


_decode_line = Decoder(Line).decode
_decode_any = Decoder(Raw).decode
_decode_members = Decoder(_Members).decode
_decode_body = Decoder(_BodyMembers).decode
_decode_string = Decoder(str).decode
_decode_request = Decoder(_RawRequest).decode


def _read_slowly(data: bytes | bytearray) -> Line:
    """Finds what is wrong with a line that the decoder refuses; it may be only an earlier value of a name."""
    if not is_json(data):
        raise Fault("invalid_json_line", "This line is not parseable as valid JSON.")
    try:
        members = _decode_members(data)
    except DecodeError:
        raise Fault("invalid_json_line", "This line is not a JSON object.") from None
    for name in ("custom_id", "method", "url", "body"):
        if getattr(members, name) is _ABSENT:
            raise Fault("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    custom_id = _string(members.custom_id, "custom_id")
    method = _string(members.method, "method")
    url = _string(members.url, "url")
    body = _body(members.body)
    _check_length(custom_id, "custom_id", MAX_CUSTOM_ID)
    if method != "POST":
        raise Fault("invalid_value", f"Invalid value: '{method[:32]}'. Supported values are: 'POST'.", "method")
    return Line(custom_id, "POST", url, body)


def _body(raw: Raw) -> RequestBody:
    _check_type(raw, "body", "an object")
    members = _decode_body(raw)
    model: str | None = None
    if members.model is not _ABSENT and bytes(memoryview(members.model)[:4]) != b"null":
        model = _string(members.model, "body.model")
        if model:
            _check_length(model, "body.model", MAX_MODEL)
    return RequestBody(model, members.stream, members.messages, members.input, members.prompt)


def _string(raw: Raw, param: str) -> str:
    _check_type(raw, param, "a string")
    return _decode_string(raw)


def _check_type(raw: Raw, param: str, expected: str) -> None:
    got = _type_name(bytes(memoryview(raw)[:64]))
    if got != expected:
        message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
        raise Fault("invalid_type", message, param)


def _type_name(value: bytes) -> str:
    names = {b'"': "a string", b"{": "an object", b"[": "an array", b"n": "null", b"t": "a boolean", b"f": "a boolean"}
    number = "a decimal" if set(b".eE") & set(value) else "an integer"
    return names.get(value[:1], number)


def _check_length(value: str, param: str, longest: int) -> None:
    if not value:
        expected = "Expected a string with minimum length 1, but got an empty string instead."
        raise Fault("empty_string", f"Invalid '{param}': empty string. {expected}", param)
    if len(value) > longest:
        raise _too_long(param, longest, f"a string with length {len(value)}")


def _too_long(param: str, longest: int, got: str) -> Fault:
    expected = f"Expected a string with maximum length {longest}, but got {got} instead."
    return Fault("string_above_max_length", f"Invalid '{param}': string too long. {expected}", param)


@contextmanager
def _damaged(number: int) -> Iterator[None]:
    try:
        yield
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DataLoss(f"Line {number} of the stored input is damaged.") from error
