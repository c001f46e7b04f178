"""Calls whose fields have any values that their types allow, over gRPC and over REST."""

import json
import re
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from batchyard.v1 import batch_service_pb2

from .conftest import Door
from .inputs import bounded, mutated

CALL_SECONDS = 30
OURS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
SERVICE = batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"]
METHODS = [method for method in SERVICE.methods if not method.client_streaming]
FILE, BATCH = "file-that-exists", "batch_that_exists"
GOOD = {"input_file_id": FILE, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
WORDS = [
    FILE,
    BATCH,
    "",
    "local",
    "batch",
    "24h",
    "/v1/chat/completions",
    "created_at",
    "asc",
    "\0",
    "x" * 600,
    "é" * 300,
]
TEXTS = st.sampled_from(WORDS) | st.text(max_size=20)
HEADERS = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=300).map(
    str.strip
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
LABELS = st.dictionaries(TEXTS, TEXTS, max_size=20)
SECONDS = st.sampled_from([3600, 3599, 0, -1, 2**63, 1.5])
TYPED = {
    "metadata": LABELS,
    "output_expires_after": st.fixed_dictionaries({}, optional={"anchor": TEXTS, "seconds": SECONDS}),
    "provider": TEXTS,
}
MEMBERS = {**dict.fromkeys(GOOD, TEXTS), **TYPED, "x": JSON}


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Any]:
    """A creation with one or two members of any values, mostly of the right types."""
    names = draw(st.lists(st.sampled_from(sorted(MEMBERS)), min_size=1, max_size=2, unique=True))
    return {**GOOD, **{name: draw(MEMBERS[name] | MEMBERS[name] | JSON) for name in names}}


BODIES = (objects() | JSON).map(lambda value: json.dumps(value).encode())
NUMBERS = st.sampled_from([0, 1, -1, 20, 3600])
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_INT32: NUMBERS | st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: NUMBERS | st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_ENUM: NUMBERS | st.integers(-(2**31), 2**31 - 1),
}


def values(field: Any) -> st.SearchStrategy[Any]:
    if field.is_repeated and not (field.message_type and field.message_type.GetOptions().map_entry):
        return st.lists(single(field), max_size=3)
    return single(field)


def single(field: Any) -> st.SearchStrategy[Any]:
    if field.type == field.TYPE_BYTES:
        return st.binary(max_size=20) | st.sampled_from([b"{}", b'{"x": [1]}', b'{"api_base": "x"}', b"[" * 5000])
    if field.message_type is None:
        return SCALARS.get(field.cpp_type, TEXTS)
    if field.message_type.GetOptions().map_entry:
        return LABELS
    return messages(field.message_type)


@st.composite
def messages(draw: st.DrawFn, kind: Any) -> Message:
    """A message with any values in up to three fields; a creation is good otherwise."""
    fields = {field.name: field for field in kind.fields}
    names = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)) if fields else []
    good = {name: value for name, value in GOOD.items() if fields.keys() >= GOOD.keys()}
    return GetMessageClass(kind)(**{**good, **{name: draw(values(fields[name])) for name in names}})


PATHS = [
    "/files",
    "/files/{}",
    "/files/{}/content",
    "/batches",
    "/batches/{}",
    "/batches/{}/cancel",
    "/batches/{}/events",
]
CALLS = st.sampled_from([*METHODS, *[SERVICE.methods_by_name["CreateBatch"]] * 4]).flatmap(
    lambda rpc: st.tuples(st.just(rpc), messages(rpc.input_type))
)


@bounded(250)
@given(call=CALLS, request_id=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=140))
async def test_a_call_with_any_values_is_no_fault_of_the_service(
    door: Door, call: tuple[Any, Message], request_id: str
) -> None:
    rpc, message = call
    for place, real in zip((FILE, BATCH), await door.known(), strict=True):
        renamed(message, place, real)
    metadata = (*door.grpc.metadata, ("x-request-id", request_id))
    answer = getattr(door.grpc.stub, rpc.name)(message, metadata=metadata, timeout=CALL_SECONDS)
    with suppress(grpc.aio.AioRpcError):
        if rpc.server_streaming:
            assert [message async for message in answer]
    assert await answer.code() not in OURS, await answer.details()


def renamed(message: Message, place: str, real: str) -> None:
    for field, value in message.ListFields():
        if value == place:
            setattr(message, field.name, real)


@bounded(100)
@given(body=BODIES | mutated(BODIES), key=HEADERS)
async def test_a_creation_with_any_body_is_done_or_refused(door: Door, body: bytes, key: str) -> None:
    file_id, _ = await door.known()
    headers = [(b"content-type", b"application/json"), (b"idempotency-key", key.encode("latin-1"))]
    content = body.replace(FILE.encode(), file_id.encode())
    answer = await door.rest.post("/v1/batches", content=content, headers=headers)
    assert_done_or_refused(answer.status_code, answer.text)


@bounded(100)
@given(
    prefix=st.sampled_from(["/v1", "", "/local/v1", "/local", "/nowhere/v1"])
    | TEXTS.map(lambda text: "/" + quoted(text)),
    path=st.sampled_from(
        [
            "/files",
            "/files/{}",
            "/files/{}/content",
            "/batches",
            "/batches/{}",
            "/batches/{}/cancel",
            "/batches/{}/events",
        ]
    ),
    name=TEXTS,
    query=st.dictionaries(st.sampled_from(["limit", "after", "order", "purpose", "provider", "x"]), TEXTS, max_size=3),
    span=st.sampled_from(["", "bytes=0-0", "bytes=-1", "bytes=99999999999999999999-", "bytes=5-2", "x"]) | HEADERS,
)
async def test_a_request_with_any_names_is_done_or_refused(
    door: Door, prefix: str, path: str, name: str, query: dict[str, str], span: str
) -> None:
    file_id, batch_id = await door.known()
    name = {FILE: file_id, BATCH: batch_id}.get(name, name)
    headers = [(b"range", span.encode("latin-1"))]
    verb = "POST" if path.endswith("cancel") else "GET"
    url = prefix + path.format(quoted(name))
    answer = await door.rest.request(verb, url, params=query, headers=headers)
    assert_done_or_refused(answer.status_code, answer.text)


def quoted(text: str) -> str:
    return quote(text, safe="")


def assert_done_or_refused(status: int, text: str) -> None:
    assert 200 <= status < 500, text
    if status >= 400:
        assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
        assert not re.search(r"Traceback|\.py\b", text)
