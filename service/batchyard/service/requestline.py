"""One line of a batch's input: what it must look like, and what is said where it doesn't.

Codes, params and messages are OpenAI's where they are known; those for wrong types, lengths and values are worded as
its API words them elsewhere. JSON is RFC 8259 in UTF-8: NaN, Infinity, control characters in strings and escapes of
half a surrogate pair are refused, since no provider takes them. Of a name that comes twice the last value counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, NamedTuple

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType
from msgspec.json import Decoder

from batchyard.service.errors import DataLoss

BLANK = b" \t\r"
"""What a line that holds no request consists of."""
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


class Fault(Exception):
    """What is wrong with a line."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class Body(Struct, gc=False):
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
    body: Body


class Request(NamedTuple):
    """A request of a batch's input; `body` is its JSON, byte for byte."""

    line_number: int
    custom_id: str
    url: str
    body: bytes


def endpoint_of(url: str) -> str:
    """Returns a line's url in its one form: `/chat/completions` is `/v1/chat/completions`."""
    return url if url.startswith("/v1/") else "/v1" + url


def read_line(data: bytes) -> Line:
    """Reads a line without its newline. Raises Fault."""
    try:
        if not data.isascii():
            data.decode()
        return _decode_line(data)
    except (DecodeError, RecursionError, UnicodeDecodeError):
        return _read_slowly(data)


def is_json(data: bytes) -> bool:
    """Tells whether a line is JSON at all."""
    try:
        data.decode()
        _decode_any(data)
    except (DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def check_body(body: Body, endpoint: str) -> None:
    """Raises Fault where a body lacks what its endpoint needs, or asks for a stream."""
    if not body.model and endpoint != "/v1/moderations":
        raise Fault("invalid_request", "Model parameter is required.", "body.model")
    if len(body.messages) < 5 and endpoint == CHAT and bytes(body.messages) in {b"", b"null"}:
        raise Fault("invalid_request", "Messages parameter is required.", "body.messages")
    if len(body.stream) == 4 and bytes(body.stream) == b"true":
        name = f"{NAMES[endpoint]}: " if endpoint in NAMES else ""
        raise Fault("streaming_unsupported", f"{name}Streaming is not supported in the Batch API.", "body.stream")


def prompt_bytes(body: Body) -> int:
    """Returns how many bytes of JSON the prompt has, with all that goes into it."""
    asked = len(body.messages) + len(body.input) + len(body.prompt)
    if body.instructions is body.tools is body.functions is body.response_format is _ABSENT:  # as nearly always
        return asked
    return asked + len(body.instructions) + len(body.tools) + len(body.functions) + len(body.response_format)


def embedding_inputs(body: Body) -> int:
    """Returns how many texts, or lists of tokens, an embeddings request has."""
    if _first(body.input) != b"[":
        return 1
    inputs = _decode_array(body.input)
    return len(inputs) if inputs and _first(inputs[0]) in {b'"', b"["} else 1


def lines(data: bytes, first_line_number: int) -> Iterator[Request]:
    """Reads the requests of whole lines that a scan found good; `first_line_number` is that of the first line.

    Raises DataLoss where a line can't be read: then these are not the bytes that were scanned.
    """
    for number, line in enumerate(data.split(b"\n"), first_line_number):
        if line.strip(BLANK):
            with _damaged(number):
                raw = _decode_request(line)
                custom_id, url = _decode_string(raw.custom_id), _decode_string(raw.url)
            yield Request(number, custom_id, url, bytes(raw.body))


def _first(value: Raw) -> bytes:
    return bytes(memoryview(value)[:1])


class _RawRequest(Struct, gc=False):
    custom_id: Raw
    url: Raw
    body: Raw


_decode_line = Decoder(Line).decode
_decode_body = Decoder(Body).decode
_decode_any = Decoder(Raw).decode
_decode_array = Decoder(list[Raw]).decode
_decode_members = Decoder(dict[str, Raw]).decode
_decode_string = Decoder(str).decode
_decode_request = Decoder(_RawRequest).decode


def _read_slowly(data: bytes) -> Line:
    """Finds what is wrong with a line that the decoder refuses; it may be only an earlier value of a name."""
    if not is_json(data):
        raise Fault("invalid_json_line", "This line is not parseable as valid JSON.")
    if not data.lstrip(BLANK).startswith(b"{"):
        raise Fault("invalid_json_line", "This line is not a JSON object.")
    members = _decode_members(data)
    for name in ("custom_id", "method", "url", "body"):
        if name not in members:
            raise Fault("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    custom_id = _string(members["custom_id"], "custom_id")
    method = _string(members["method"], "method")
    url = _string(members["url"], "url")
    body = _body(members["body"])
    _check_length(custom_id, "custom_id", MAX_CUSTOM_ID)
    if method != "POST":
        raise Fault("invalid_value", f"Invalid value: '{method[:32]}'. Supported values are: 'POST'.", "method")
    return Line(custom_id, "POST", url, body)


def _body(raw: Raw) -> Body:
    _check_type(raw, "body", "an object")
    members = _decode_members(raw)
    model: str | None = None
    if "model" in members and bytes(members["model"]) != b"null":
        model = _string(members.pop("model"), "body.model")
        if model:
            _check_length(model, "body.model", MAX_MODEL)
    return Body(model, *(members.get(name, _ABSENT) for name in ("stream", "messages", "input", "prompt")))


def _string(raw: Raw, param: str) -> str:
    _check_type(raw, param, "a string")
    return _decode_string(raw)


def _check_type(raw: Raw, param: str, expected: str) -> None:
    got = _type_name(bytes(raw))
    if got != expected:
        message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
        raise Fault("invalid_type", message, param)


def _type_name(value: bytes) -> str:
    names = {b'"': "a string", b"{": "an object", b"[": "an array", b"n": "null", b"t": "a boolean", b"f": "a boolean"}
    number = "a decimal" if set(b".eE") & set(value[:64]) else "an integer"
    return names.get(value[:1], number)


def _check_length(value: str, param: str, longest: int) -> None:
    if not value:
        code, found, bound, got = "empty_string", "empty string", "minimum length 1", "an empty string"
    elif len(value) > longest:
        code, found, bound = "string_above_max_length", "string too long", f"maximum length {longest}"
        got = f"a string with length {len(value)}"
    else:
        return
    raise Fault(code, f"Invalid '{param}': {found}. Expected a string with {bound}, but got {got} instead.", param)


@contextmanager
def _damaged(number: int) -> Iterator[None]:
    try:
        yield
    except (DecodeError, RecursionError) as error:
        raise DataLoss(f"Line {number} of the stored input is damaged.") from error
