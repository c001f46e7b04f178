"""Bad inputs of uploads: forms over REST, streams over gRPC, and what is in the files of batches."""

import json
from typing import Any

from tests.bad_input.calls import NO_PROVIDER, outside
from tests.bad_input.model import Case, Failed, Fine, Group, Http, Input, Refused, Wrong, case, upload
from tests.harness import chat_line, jsonl
from tests.rest.conftest import FORM, Part, form

from batchyard.v1 import UploadFileFinish, UploadFileMetadata, UploadFileRequest

MIB = 1 << 20
LINE = jsonl([chat_line("a")])
FILE: Part = ("file", LINE, "input.jsonl")
PURPOSE: Part = ("purpose", "batch")
FORMAT = "Invalid file format for Batch API. Must be .jsonl"
NOT_AS_THEY_ARE = "Invalid 'file': its bytes must come as they are, without a Content-Transfer-Encoding."
COMPRESSED = "The request's body must come as it is, without a Content-Encoding."
FORM_BROKEN = Refused("We could not parse the form of your request: it is wrong or cut off.")
NO_FORM = Refused("The request must be multipart/form-data, with a boundary of 1 to 70 characters.")


def sent(*parts: Part, end: bool = True, **headers: str) -> Http:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Http("POST", "/v1/files", form(*parts, end=end), {**FORM, **headers})


def about(**fields: Any) -> UploadFileRequest:
    return UploadFileRequest(metadata=UploadFileMetadata(**fields))


def data(piece: bytes) -> UploadFileRequest:
    return UploadFileRequest(data=piece)


def finish(size: int = len(LINE), digest: bytes | None = None) -> UploadFileRequest:
    return UploadFileRequest(finish=UploadFileFinish(size=size, sha256=digest))


BATCH = about(purpose="batch", filename="input.jsonl")
MUCH = [data(b"x" * MIB)] * 3  # more than is held in memory


def piece_of(size: int) -> Refused:
    return Refused(f"A piece of data has 1 to 1048576 bytes, but this one has {size}.", "data")


def unknown_purpose(purpose: str) -> Refused:
    known = "['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals']"
    return Refused(f"'{purpose}' is not one of {known} - 'purpose'", "purpose")


def expiry(seconds: int, anchor: str = "created_at") -> tuple[Any, Any]:
    """An upload with this expiry, on both surfaces."""
    fields: list[Part] = [("expires_after[anchor]", anchor), ("expires_after[seconds]", str(seconds))]
    after = {"anchor": anchor, "seconds": seconds}
    return sent(PURPOSE, *fields, FILE), upload(BATCH, about(expires_after=after), data(LINE), finish())


UPLOADS = [
    case("no file", Refused("'file' is a required property", "file"), sent(PURPOSE), sent()),
    case("no purpose", Refused("'purpose' is a required property", "purpose"), sent(FILE),
         upload(about(filename="input.jsonl"), data(LINE), finish())),
    case("an unknown purpose", unknown_purpose("fun"), sent(("purpose", "fun"), FILE), sent(FILE, ("purpose", "fun")),
         upload(about(purpose="fun"), data(LINE), finish()), upload(about(), data(LINE), about(purpose="fun"))),
    case("an unknown provider", NO_PROVIDER, sent(("provider", "moon"), PURPOSE, FILE),
         sent(("custom_llm_provider", "moon"), PURPOSE, FILE), sent(PURPOSE, FILE, custom_llm_provider="moon"),
         Http("POST", "/moon/v1/files", form(PURPOSE, FILE), FORM),
         upload(about(provider="moon", purpose="batch"), data(LINE)), upload(about(), data(LINE),
                                                                             about(provider="moon"))),
    case("a name that doesn't end in .jsonl", Refused(FORMAT), sent(PURPOSE, ("file", LINE, "input.csv")),
         upload(about(purpose="batch", filename="input.csv"), data(LINE)),
         upload(about(purpose="batch"), data(LINE), about(filename="input.csv"))),
    case("a name of 513 characters, or with a control character",
         Refused("Invalid 'filename': expected at most 512 characters, none of them a control character.", "file"),
         sent(PURPOSE, ("file", LINE, "n" * 507 + ".jsonl")), upload(about(filename="n" * 513), data(LINE)),
         upload(about(filename="a\nb.jsonl"), data(LINE))),
    case("an expiry that is too soon", outside("expires_after.seconds", 1, ">= 3600"), *expiry(1)),
    case("an expiry that is too late", outside("expires_after.seconds", 2592001, "<= 2592000"), *expiry(2592001)),
    case("an expiry from another anchor", Refused("Invalid value: 'now'. Supported values are: 'created_at'.",
                                                  "expires_after.anchor", "invalid_value"), *expiry(3600, "now")),
    case("a purpose that becomes batch after the content", Refused("'purpose' can't change once data has come",
                                                                   "purpose"),
         upload(about(purpose="vision"), data(LINE), about(purpose="batch"), finish())),
]  # fmt: skip


def with_header(header: bytes) -> Http:
    """A form whose file has one more header."""
    whole = form(PURPOSE, FILE)
    return Http("POST", "/v1/files", whole.replace(b"\r\n\r\n" + LINE, b"\r\n" + header + b"\r\n\r\n" + LINE), FORM)


FORMS = [
    case("a form that is cut off", FORM_BROKEN, sent(PURPOSE, FILE, end=False),
         sent(PURPOSE, ("file", LINE * 20_000, "input.jsonl"), end=False),
         *(Http("POST", "/v1/files", form(PURPOSE, FILE)[:cut], FORM) for cut in (1, 50, 100, 250))),
    case("a form with another boundary than its header says", FORM_BROKEN,
         Http("POST", "/v1/files", form(PURPOSE, FILE).replace(b"b0undary", b"another"), FORM)),
    case("a part with headers of 100,000 bytes", FORM_BROKEN, sent(PURPOSE, ("file", LINE, "n" * 100_000 + ".jsonl"))),
    case("no form, no boundary, or one of more than 70 characters", NO_FORM,
         Http("POST", "/v1/files", b"{}", {"content-type": "application/json"}), Http("POST", "/v1/files"),
         Http("POST", "/v1/files", b"", {"content-type": "multipart/form-data"}),
         Http("POST", "/v1/files", b"", {"content-type": f"multipart/form-data; boundary={'b' * 71}"})),
    case("two files", Refused("Invalid 'file': a form holds one file.", "file", "invalid_value"),
         sent(PURPOSE, FILE, FILE), with_header(b"Content-Type: multipart/mixed; boundary=inner")),
    case("a file in base64 or quoted-printable", Refused(NOT_AS_THEY_ARE, "file", "invalid_value"),
         with_header(b"Content-Transfer-Encoding: base64"),
         with_header(b"content-transfer-encoding: Quoted-Printable")),
    case("a body that is compressed", Refused(COMPRESSED, "content-encoding", "invalid_value"),
         Http("POST", "/v1/files", form(PURPOSE, FILE), FORM | {"content-encoding": "gzip"}),
         Http("POST", "/v1/batches", b"{}", {"content-encoding": "identity, br"})),
    case("a field of more than 64 KiB", Refused("Invalid 'purpose': it is longer than 65536 bytes.", "purpose",
                                                "invalid_value"), sent(("purpose", "x" * 70_000), FILE)),
    case("an unknown field", Refused("Unknown parameter: 'colour'.", "colour", "unknown_parameter"),
         sent(PURPOSE, ("colour", "red"), FILE)),
    case("a field twice, with two values",
         Refused("Invalid 'purpose': it is given twice with two values, or comes after the file.", "purpose",
                 "invalid_value"), sent(PURPOSE, ("purpose", "vision"), FILE)),
    case("seconds that are no integer", Refused("Invalid 'expires_after[seconds]': expected an integer.",
                                                "expires_after[seconds]", "invalid_value"),
         sent(PURPOSE, ("expires_after[seconds]", "soon"), FILE)),
]  # fmt: skip

STREAMS = [
    case("no finish", Refused("The upload ended without its finish message; nothing was kept.",
                              reason="UPLOAD_INCOMPLETE"), upload(BATCH, data(LINE)), upload(BATCH, *MUCH), upload()),
    case("a wrong size", Refused(f"The upload finished with size 1, but {len(LINE)} bytes came.", "finish.size"),
         upload(BATCH, data(LINE), finish(1))),
    case("a wrong digest", Refused("The content does not have the SHA-256 that was announced.", "finish.sha256"),
         upload(BATCH, data(LINE), finish(digest=b"x" * 32)), upload(BATCH, data(LINE), finish(digest=b""))),
    case("data or finish before metadata", Refused("An upload begins with its metadata.", "metadata"),
         upload(data(LINE), BATCH, finish()), upload(finish(0))),
    case("a piece of more than 1 MiB", piece_of(MIB + 1), upload(BATCH, data(b"x" * (MIB + 1)), finish(MIB + 1))),
    case("a piece of 5 MiB", piece_of(5 * MIB), upload(BATCH, data(b"x" * (5 * MIB)), finish(5 * MIB)),
         note="gRPC itself refuses a message beyond `max_message_bytes` (8 MiB), without details."),
    case("an empty piece", piece_of(0), upload(BATCH, data(b""))),
    case("an empty message", Refused("An upload message carries metadata, data or finish.", "payload"),
         upload(BATCH, UploadFileRequest(), finish(0))),
    case("more than 64 metadata messages", Refused("An upload has at most 64 metadata messages.", "metadata"),
         upload(*[BATCH] * 65)),
]  # fmt: skip


def wrong(code: str, message: str, param: str | None = None, line: int = 2) -> Failed:
    return Failed((Wrong(code, param, line, message),))


def after_a_good_line(title: str, outcome: Failed, second: bytes) -> Case:
    """A file of two lines, the second of which is bad."""
    return case(title, outcome, Input(LINE + second))


def bad(**members: Any) -> bytes:
    """A line with other members than it should have; None: without that one."""
    whole = {**chat_line("b"), **members}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


def bad_body(**members: Any) -> bytes:
    return bad(body={**chat_line("b")["body"], **members})


NOT_JSON = "This line is not parseable as valid JSON."
DUPLICATE = (
    "The custom_id 'a' for this request is a duplicate of another request. "
    "The custom_id parameter must be unique for each request in a batch."
)
MISMATCHED = (
    "The model 'another' for this request does not match the rest of the batch. "
    "Each batch must contain requests for a single model."
)
ELSEWHERE = "The URL provided for this request does not match the batch endpoint."
STREAMING = "Chat Completions: Streaming is not supported in the Batch API."

INPUTS = [
    case("an empty file, or only blank lines", Refused(f"{FORMAT}: the file is empty."), Input(b""),
         Input(b"\n \n\t\r\n")),
    case("a first line that is not JSON", Refused(f"{FORMAT}: line 1 is not valid JSON."),
         Input(b"id,question\n1,hello\n"), Input(b"\xff\xfe" + LINE)),
    case("blank lines", Fine(2), Input(b"\n" + LINE + b"\n \n" + bad() + b"\n\n")),
    case("CRLF line ends", Fine(2), Input(LINE.replace(b"\n", b"\r\n") + bad() + b"\r\n")),
    case("no newline at the end", Fine(1), Input(LINE.rstrip())),
    case("a byte order mark", wrong("invalid_json_line", NOT_JSON, line=1), Input(b"\xef\xbb\xbf" + LINE)),
    after_a_good_line("a line that is not JSON", wrong("invalid_json_line", NOT_JSON), b'{"custom_id": '),
    after_a_good_line("a line that is not UTF-8", wrong("invalid_json_line", NOT_JSON), bad().replace(b"b", b"\xff")),
    after_a_good_line("a line that is no object", wrong("invalid_json_line", "This line is not a JSON object."), b"[]"),
    case("a line of 50 MB", wrong("invalid_request", "This line is longer than the maximum of 16777216 bytes.",
                                  line=1), Input(lambda: b'{"custom_id": "' + b"x" * 50_000_000 + b'"}\n')),
    *(after_a_good_line(f"a line without {name}", wrong("missing_required_parameter",
                                                        f"Missing required parameter: '{name}'.", name),
                        bad(**{name: None})) for name in ("custom_id", "method", "url", "body")),
    after_a_good_line("a custom_id that is no string", wrong(
        "invalid_type", "Invalid type for 'custom_id': expected a string, but got an integer instead.", "custom_id"),
        bad(custom_id=1)),
    after_a_good_line("a custom_id that comes twice", wrong("duplicate_custom_id", DUPLICATE, "custom_id"), LINE),
    after_a_good_line("another method", wrong("invalid_value", "Invalid value: 'GET'. Supported values are: 'POST'.",
                                              "method"), bad(method="GET")),
    after_a_good_line("another url than the batch's endpoint", wrong("invalid_url", ELSEWHERE, "url"),
                      bad(url="/v1/embeddings")),
    after_a_good_line("no model", wrong("invalid_request", "Model parameter is required.", "body.model"),
                      bad(body={"messages": []})),
    after_a_good_line("no messages", wrong("invalid_request", "Messages parameter is required.", "body.messages"),
                      bad(body={"model": "test-model"})),
    after_a_good_line("two models", wrong("mismatched_model", MISMATCHED, "body.model"), bad_body(model="another")),
    after_a_good_line("`stream: true`", wrong("streaming_unsupported", STREAMING, "body.stream"),
                      bad_body(stream=True)),
    case("many bad lines", Failed((
        Wrong("invalid_json_line", None, 2, NOT_JSON), Wrong("duplicate_custom_id", "custom_id", 3, DUPLICATE),
        Wrong("invalid_url", "url", 5, ELSEWHERE),
    )), Input(LINE + b"{\n" + LINE + b"\n" + bad(url="/v1/responses"))),
]  # fmt: skip

GROUPS = [
    Group("Uploads", UPLOADS),
    Group("Forms, over REST", FORMS),
    Group("Upload streams, over gRPC", STREAMS),
    Group("The files of batches", INPUTS),
]
