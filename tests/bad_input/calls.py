"""Bad inputs of calls that carry no file."""

import json
from typing import Any

from grpc import StatusCode
from tests.bad_input.model import NO_HEADERS, Case, Failed, Fine, Group, Http, Raw, Refused, Rpc, Wrong, case, upload
from tests.rest.conftest import batch_request

from batchyard.v1 import (
    CancelBatchRequest,
    CreateBatchRequest,
    DeleteFileRequest,
    DownloadFileRequest,
    GetBatchRequest,
    GetFileRequest,
    ListBatchesRequest,
    ListFilesRequest,
    WatchBatchRequest,
)

EARLIER_BYTES = 2
ENDPOINTS = "'/v1/chat/completions', '/v1/completions', '/v1/embeddings', '/v1/moderations', and '/v1/responses'"
NEVER_RETRY = {"x-should-retry": "false"}
JSON = "We could not parse the JSON body of your request. "
NO_JSON = JSON + "It holds something that no JSON value can be, or is nested too deeply."
HEAD = b"GET /v1/files HTTP/1.1\r\nhost: batchyard\r\n"
EXPECTING = (
    b"POST /v1/files HTTP/1.1\r\nhost: batchyard\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n"
    b"content-type: multipart/form-data; boundary=b0undary\r\n"
)


def get(path: str, **headers: str) -> Http:
    return Http("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def post(body: Any, path: str = "/v1/batches", headers: dict[str, str] | None = None) -> Http:
    return Http("POST", path, json.dumps(body).encode(), headers or NO_HEADERS)


def posted(content: bytes) -> Http:
    return Http("POST", "/v1/batches", content)


def new(**members: Any) -> Http:
    return post(batch_request("$earlier", **members))


def created(**fields: Any) -> Rpc:
    return Rpc("CreateBatch", [CreateBatchRequest(**batch_request("$earlier", **fields))])


def both(**members: Any) -> tuple[Http, Rpc]:
    """A batch with a wrong member, on both surfaces."""
    return new(**members), created(**members)


def too_long(param: str, most: int, length: int, what: str = "a string") -> Refused:
    message = (
        f"Invalid '{param}': string too long. Expected {what} with maximum length {most}, "
        f"but got a string with length {length} instead."
    )
    return Refused(message, param, "string_above_max_length")


def wrong_type(param: str, expected: str, got: str) -> Refused:
    return Refused(f"Invalid type for '{param}': expected {expected}, but got {got} instead.", param, "invalid_type")


def outside(param: str, value: int, bound: str) -> Refused:
    side, code = ("below minimum", "below_min") if bound.startswith(">") else ("above maximum", "above_max")
    message = f"Invalid '{param}': integer {side} value. Expected a value {bound}, but got {value} instead."
    return Refused(message, param, f"integer_{code}_value")


def missing(name: str) -> Case:
    code = Refused(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    whole = batch_request("$earlier")
    del whole[name]
    return case(f"no {name}", code, post(whole), Rpc("CreateBatch", [CreateBatchRequest(**whole)]), new(**{name: None}))


def unauthenticated(message: str, code: str | None) -> Refused:
    return Refused(message, None, code, 401, StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


NO_KEY = unauthenticated(
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY).",
    None,
)
WRONG_KEY = unauthenticated("Incorrect API key provided.", "invalid_api_key")
NO_FILE = Refused("No such File object: file-missing", "id", None, 404, StatusCode.NOT_FOUND, "NOT_FOUND")
NO_BATCH = Refused("No batch found with id 'batch_missing'.", None, None, 404, StatusCode.NOT_FOUND, "NOT_FOUND")
NO_PROVIDER = Refused("There is no provider 'moon' here. Configured: local.", "provider")


def keyed(key: str | None) -> tuple[Http | Rpc, ...]:
    """Every kind of call with a key."""
    routes = (
        ("GET", "/v1/files"), ("GET", "/v1/files/$earlier/content"), ("DELETE", "/local/v1/files/$earlier"),
        ("POST", "/v1/batches"), ("GET", "/v1/batches/$done"), ("POST", "/batches/$done/cancel"),
        ("GET", "/v1/batches/$done/events"),
    )  # fmt: skip
    rpcs = (
        Rpc("GetFile", [GetFileRequest(file_id="$earlier")], key),
        Rpc("DeleteFile", [DeleteFileRequest(file_id="$earlier")], key),
        Rpc("DownloadFile", [DownloadFileRequest(file_id="$earlier")], key),
        Rpc("CreateBatch", [CreateBatchRequest()], key),
        Rpc("ListBatches", [ListBatchesRequest()], key),
        Rpc("WatchBatch", [WatchBatchRequest(batch_id="$done")], key),
    )
    return (*(Http(verb, path, b"{}", key=key) for verb, path in routes), *rpcs)


KEYS = [
    case("no key", NO_KEY, *keyed(None)),
    case("a wrong key", WRONG_KEY, *keyed("sk-wrong")),
    case(
        "an upload without a key", NO_KEY, Raw(EXPECTING + b"\r\n"), upload(key=None, open=True),
        note="Before anything of its body is read.",
    ),
    case(
        "an upload with a wrong key", WRONG_KEY, Raw(EXPECTING + b"authorization: Bearer sk-wrong\r\n\r\n"),
        upload(key="sk-wrong", open=True), note="Before anything of its body is read.",
    ),
]  # fmt: skip

UNKNOWN = [
    case(
        "an unknown file: get, content, delete", NO_FILE, get("/v1/files/file-missing"),
        get("/v1/files/file-missing/content"), Http("DELETE", "/v1/files/file-missing"),
        Rpc("GetFile", [GetFileRequest(file_id="file-missing")]),
        Rpc("DownloadFile", [DownloadFileRequest(file_id="file-missing")]),
        Rpc("DeleteFile", [DeleteFileRequest(file_id="file-missing")]),
    ),
    case(
        "an unknown file: a batch over it",
        Failed((Wrong("invalid_request", "file_id", None,
                      "Cannot find file file-missing, or your key does not have access to it."),)),
        *both(input_file_id="file-missing"),
    ),
    case(
        "a batch over a file of another purpose",
        Failed((Wrong("invalid_request", "file_id", None,
                      "File $earlier is not a batch input: its purpose is not 'batch'."),)),
        *both(input_file_id="$earlier"),
    ),
    case(
        "an unknown batch: get, cancel, watch", NO_BATCH, get("/v1/batches/batch_missing"),
        get("/v1/batches/batch_missing/events"), Http("POST", "/v1/batches/batch_missing/cancel"),
        Rpc("GetBatch", [GetBatchRequest(batch_id="batch_missing")]),
        Rpc("CancelBatch", [CancelBatchRequest(batch_id="batch_missing")]),
        Rpc("WatchBatch", [WatchBatchRequest(batch_id="batch_missing")]),
    ),
    case(
        "an unknown provider: in the path, the query, a header, the body", NO_PROVIDER, get("/moon/v1/files"),
        get("/moon/batches/$done"), get("/v1/files?provider=moon"), get("/v1/batches?custom_llm_provider=moon"),
        get("/v1/files/$earlier", custom_llm_provider="moon"),
        post(batch_request("$earlier"), "/moon/v1/batches"), new(provider="moon"),
        new(custom_llm_provider="moon"),
        Rpc("ListFiles", [ListFilesRequest(provider="moon")]),
        Rpc("GetBatch", [GetBatchRequest(provider="moon", batch_id="$done")]), created(provider="moon"),
    ),
    case(
        "two providers that differ",
        Refused("The request names two providers: 'local' and 'moon'.", "provider", "invalid_value"),
        get("/local/v1/files", custom_llm_provider="moon"), get("/local/v1/files?provider=moon"),
    ),
]  # fmt: skip

CREATE = [
    *(missing(name) for name in ("input_file_id", "endpoint", "completion_window")),
    case(
        "an unknown endpoint",
        Refused(f"Invalid value: '/v1/x'. Supported values are: {ENDPOINTS}.", "endpoint", "invalid_value"),
        *both(endpoint="/v1/x"),
    ),
    case(
        "another completion window",
        Refused("Invalid value: '48h'. Supported values are: '24h'.", "completion_window", "invalid_value"),
        *both(completion_window="48h"),
    ),
    case("a file id of 257 characters", too_long("input_file_id", 256, 257), *both(input_file_id="f" * 257)),
    case("metadata of another type", wrong_type("metadata", "an object", "an array"), new(metadata=["a"])),
    case("a metadata value of another type", wrong_type("metadata.tags", "a string", "an array"),
         new(metadata={"tags": ["a"]})),
    case("a metadata value that is null", wrong_type("metadata.k", "a string", "null"), new(metadata={"k": None})),
    case(
        "17 pairs of metadata",
        Refused("Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
                "but got an object with 17 properties instead.", "metadata", "object_above_max_properties"),
        *both(metadata={f"k{number}": "v" for number in range(17)}),
    ),
    case("a metadata key of 65 characters", too_long(f"metadata.{'k' * 64}", 64, 65, "a key"),
         *both(metadata={"k" * 65: "v"})),
    case("a metadata value of 513 characters", too_long("metadata.k", 512, 513), *both(metadata={"k": "v" * 513})),
    case("an expiry of results that is too soon", outside("output_expires_after.seconds", 3599, ">= 3600"),
         *both(output_expires_after={"anchor": "created_at", "seconds": 3599})),
    case("an expiry of results that is too late", outside("output_expires_after.seconds", 2592001, "<= 2592000"),
         *both(output_expires_after={"anchor": "created_at", "seconds": 2592001})),
    case(
        "an expiry from another anchor",
        Refused("Invalid value: 'now'. Supported values are: 'created_at'.", "output_expires_after.anchor",
                "invalid_value"),
        *both(output_expires_after={"anchor": "now", "seconds": 3600}),
    ),
    case("an expiry of another type", wrong_type("output_expires_after.seconds", "an integer", "a string"),
         new(output_expires_after={"anchor": "created_at", "seconds": "3600"})),
    case(
        "an idempotency key that was used for another request",
        Refused("This idempotency key was used for another request in the last 24 hours.", "idempotency_key", None,
                409, StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", headers=NEVER_RETRY),
        post(batch_request("$earlier"), headers={"idempotency-key": "used"}), created(idempotency_key="used"),
    ),
    case("an idempotency key of 256 characters", too_long("idempotency_key", 255, 256),
         post(batch_request("$earlier"), headers={"idempotency-key": "k" * 256}), created(idempotency_key="k" * 256)),
]  # fmt: skip

LISTS = [
    case("a limit of 0", outside("limit", 0, ">= 1"), get("/v1/batches?limit=0"), get("/v1/files?limit=0"),
         Rpc("ListBatches", [ListBatchesRequest(limit=0)]), Rpc("ListFiles", [ListFilesRequest(limit=0)])),
    case("a limit of -1", outside("limit", -1, ">= 1"), get("/v1/batches?limit=-1"), get("/v1/files?limit=-1"),
         Rpc("ListBatches", [ListBatchesRequest(limit=-1)]), Rpc("ListFiles", [ListFilesRequest(limit=-1)])),
    case("a limit of 101, for batches", outside("limit", 101, "<= 100"), get("/v1/batches?limit=101"),
         Rpc("ListBatches", [ListBatchesRequest(limit=101)])),
    case("a limit of 10001, for files", outside("limit", 10001, "<= 10000"), get("/v1/files?limit=10001"),
         Rpc("ListFiles", [ListFilesRequest(limit=10001)])),
    case("a limit that is no integer", wrong_type("limit", "an integer", "a string"), get("/v1/batches?limit=abc"),
         get("/v1/files?limit=1.5"), get("/v1/files?limit=")),
    case("a limit beyond every integer", Refused("Invalid 'limit': the integer is out of range.", "limit",
                                                 "invalid_value"), get("/v1/batches?limit=99999999999999999999")),
    case("an unknown order", Refused("Invalid value: 'sideways'. Supported values are: 'asc', 'desc'.", "order",
                                     "invalid_value"), get("/v1/files?order=sideways")),
    case("a cursor that never was", Refused("Invalid 'after': there is no 'nothing'.", "after"),
         get("/v1/files?after=nothing"), get("/v1/batches?after=nothing"),
         Rpc("ListFiles", [ListFilesRequest(after="nothing")]),
         Rpc("ListBatches", [ListBatchesRequest(after="nothing")])),
    case("a cursor whose file was deleted", Fine(ids=("$earlier",)), get("/v1/files?after=$deleted"),
         Rpc("ListFiles", [ListFilesRequest(after="$deleted")]),
         note="The list goes on behind the place where the file was, for seven days."),
]  # fmt: skip

STATES = [
    *(
        case(
            f"cancelling a batch that has {word}",
            Refused(f"Cannot cancel a batch with status '{word}'.", None, None, 409, StatusCode.FAILED_PRECONDITION,
                    "BATCH_ENDED", headers=NEVER_RETRY),
            Http("POST", f"/v1/batches/{batch}/cancel"), Rpc("CancelBatch", [CancelBatchRequest(batch_id=batch)]),
        )
        for word, batch in (("completed", "$done"), ("failed", "$failed"))
    ),
    case(
        "deleting a file that a batch reads",
        Refused("File '$held' is being read by batch '$running'. Cancel the batch or wait for its end.", "file_id",
                None, 409, StatusCode.FAILED_PRECONDITION, "FILE_IN_USE", headers=NEVER_RETRY),
        Http("DELETE", "/v1/files/$held"), Rpc("DeleteFile", [DeleteFileRequest(file_id="$held")]),
    ),
    case(
        "a range that starts behind the end",
        Refused("The requested range is not within the file.", None, None, 416,
                headers={"content-range": f"bytes */{EARLIER_BYTES}"}),
        get("/v1/files/$earlier/content", range="bytes=100000-"),
        get("/v1/files/$earlier/content", range=f"bytes={EARLIER_BYTES}-"),
    ),
    case(
        "a read that starts behind the end",
        Refused(f"The file has {EARLIER_BYTES} bytes; a read can't start at 100000.", "read_offset", None, 416,
                StatusCode.OUT_OF_RANGE, "OUT_OF_RANGE"),
        Rpc("DownloadFile", [DownloadFileRequest(file_id="$earlier", read_offset=100000)]),
    ),
    case("a read of fewer than no bytes", Refused("Invalid 'read_limit': expected a value >= 0.", "read_limit"),
         Rpc("DownloadFile", [DownloadFileRequest(file_id="$earlier", read_limit=-1)])),
]  # fmt: skip

REQUESTS = [
    *(case(f"an unknown route: `{verb} {path}`", Refused(f"Invalid URL ({verb} {path})", status=404), Http(verb, path))
      for verb, path in (("GET", "/v1/nothing"), ("POST", "/v1/chat/completions"), ("GET", "/v1/files/"))),
    *(case(f"a wrong method: `{verb} {path}`", Refused(f"Invalid method ({verb} {path})", status=405,
                                                       headers={"allow": allow}), Http(verb, path))
      for verb, path, allow in (("PUT", "/v1/batches", "GET, POST"), ("DELETE", "/v1/files", "GET, POST"),
                                ("GET", "/v1/batches/b/cancel", "POST"))),
    case("an unknown RPC", Refused("Method not found!", grpc=StatusCode.UNIMPLEMENTED, reason=None),
         Rpc("Nothing", [b""])),
    case("JSON that isn't", Refused(JSON + "Expecting property name enclosed in double quotes (line 1, column 2)."),
         posted(b"{")),
    case("no body", Refused(JSON + "Expecting value (line 1, column 1)."), posted(b"")),
    case("NaN, bytes that are not UTF-8, or 100,000 brackets", Refused(NO_JSON), posted(b'{"metadata": NaN}'),
         posted(b"\xff\xfe"), posted(b"[" * 100_000)),
    case("JSON that is no object", Refused("Invalid type: expected an object, but got an array instead.", None,
                                           "invalid_type"), posted(b"[]")),
    case("an unknown member", Refused("Unknown parameter: 'colour'.", "colour", "unknown_parameter"),
         new(colour="red")),
    *(case(f"an unknown member, {depth:,} deep",
           Refused("Invalid 'x': nested too deeply. Expected at most 32 levels.", "x", "invalid_value"),
           posted(b'{"x":' + b"[" * depth + b"]" * depth + b"}")) for depth in (32, 975, 10_000, 500_000)),
    case("an unknown member of more than 1000 values", Refused(
        "Invalid 'x': too many values. Expected at most 1000 members and elements that are not known here, in all.",
        "x", "invalid_value"), new(x=[0] * 1000)),
    case("an unknown member of more than 64 KiB", Refused(
        "Invalid 'x': too large. Expected at most 65536 bytes of members that are not known here, in all.",
        "x", "invalid_value"), new(x="x" * 70_000)),
    *(case(f"extra_json, {depth:,} deep",
           Refused("Invalid 'extra_json': 'x': nested too deeply. Expected at most 32 levels.", "extra_json"),
           created(extra_json=b'{"x":' + b"[" * depth + b"]" * depth + b"}")) for depth in (32, 975, 10_000)),
    case("extra_json of more than 64 KiB", Refused("Invalid 'extra_json': expected at most 65536 bytes.", "extra_json"),
         created(extra_json=b"[" * 1_000_000)),
    case("a request of more than 2 MiB, over gRPC", Refused(
        "The request has 3000005 bytes, more than the maximum of 2097152.", reason="TOO_LARGE"),
        Rpc("GetBatch", [GetBatchRequest(batch_id="x" * 3_000_000)])),
    case("a member of another type", wrong_type("input_file_id", "a string", "an integer"), new(input_file_id=1)),
    case("a body of more than 1 MiB", Refused("The request body is larger than 1048576 bytes.", status=413),
         posted(b" " * (1 << 20) + b"{}")),
    case("bytes that are no HTTP", Refused("The request does not begin with a line of HTTP/1.1 or HTTP/1.0."),
         Raw(b"NONSENSE\r\n\r\n"), Raw(b"\x16\x03\x01\x02\x00"), Raw(b"PRI * HTTP/2.0\r\n\r\n")),
    case("no Host", Refused("A request has one Host header; this one has 0."), Raw(b"GET /v1/files HTTP/1.1\r\n\r\n")),
    case("two Hosts", Refused("A request has one Host header; this one has 2."), Raw(HEAD + b"host: b\r\n\r\n")),
    case("a length that is no number",
         Refused("The request's headers can't be read: Invalid character in Content-Length."),
         Raw(HEAD + b"content-length: x\r\n\r\n")),
    case("a length and chunks",
         Refused("The request's headers can't be read: Transfer-Encoding can't be present with Content-Length."),
         Raw(HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n")),
    case("a Transfer-Encoding that isn't chunked",
         Refused("The only Transfer-Encoding that this server reads is chunked."),
         Raw(HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n")),
    case("a header in two lines",
         Refused("The request's headers can't be read: Unexpected whitespace after header value."),
         Raw(HEAD + b"x: a\r\n b\r\n\r\n")),
    case("chunks that are none", Refused("The request's chunks can't be read: Invalid character in chunk size."),
         Raw(HEAD + b"transfer-encoding: chunked\r\n\r\nx\r\n")),
    case("an expectation that isn't 100-continue",
         Refused("The only expectation that this server meets is 100-continue.", status=417),
         Raw(HEAD + b"expect: more\r\n\r\n")),
    case("CONNECT", Refused("CONNECT is for proxies, and this is none.", status=405,
                            headers={"allow": "GET, HEAD, POST, DELETE"}),
         Raw(b"CONNECT batchyard:443 HTTP/1.1\r\nhost: batchyard:443\r\n\r\n")),
    case("headers of more than 64 KiB", Refused("The request's headers are larger than 65536 bytes.", status=431),
         Raw(HEAD + b"x: " + b"y" * 70_000 + b"\r\n\r\n")),
]  # fmt: skip

GROUPS = [
    Group("Keys", KEYS),
    Group("Things that are not there", UNKNOWN),
    Group("Creating a batch", CREATE),
    Group("Lists", LISTS),
    Group("States and ranges", STATES),
    Group("Requests", REQUESTS),
]
