import json
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.jsonmap import JsonError, merger, writer
from batchyard.v1 import ApiError, Batch, BatchStatus, CreateBatchRequest, DeleteFileResponse, File, FileStats

FILE = {
    "object": "file", "id": "file-52voFe6FU6MWyAwa1Uj39R", "purpose": "batch", "filename": "in.jsonl", "bytes": 170,
    "created_at": 1787176071, "expires_at": 1789768071, "status": "processed", "status_details": None,
}  # fmt: skip
BATCH = {
    "id": "batch_67f0a94dd3f88190aa0851cd92539a09", "object": "batch", "endpoint": "/v1/responses", "model": None,
    "errors": None, "input_file_id": "file-JdhoBwvPwGcb5DVvZTkKwq", "completion_window": "24h", "status": "validating",
    "output_file_id": None, "error_file_id": None, "created_at": 1743825229, "in_progress_at": None,
    "expires_at": 1743911629, "finalizing_at": None, "completed_at": None, "failed_at": None, "expired_at": None,
    "cancelling_at": None, "cancelled_at": None, "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "usage": {
        "input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0,
    },
    "metadata": None,
}  # fmt: skip
FAILED = {
    **BATCH, "status": "failed", "failed_at": 1743788695, "metadata": {"a": "b"},
    "errors": {"object": "list", "data": [
        {"code": "invalid_url", "message": "The URL does not match.", "param": "url", "line": 1},
        {"code": "invalid_request", "message": "Cannot find file.", "param": None, "line": None},
    ]},
}  # fmt: skip


def decode(kind: type[Message], value: Any) -> Any:
    message = kind()
    merger(kind)(message, value, "")
    return message


def refusal(kind: type[Message], value: Any) -> JsonError:
    with pytest.raises(JsonError) as caught:
        decode(kind, value)
    return caught.value


@pytest.mark.parametrize(("kind", "value"), [(File, FILE), (Batch, BATCH), (Batch, FAILED)])
def test_openai_objects_are_written_to_the_letter(kind: type[Message], value: dict[str, Any]) -> None:
    assert json.dumps(writer(kind)(decode(kind, value)), sort_keys=True) == json.dumps(value, sort_keys=True)


def test_a_deletion_has_exactly_three_members() -> None:
    answer = writer(DeleteFileResponse)(DeleteFileResponse(id="file-1", deleted=True))
    assert answer == {"id": "file-1", "object": "file", "deleted": True}


def test_hidden_fields_are_neither_written_nor_read() -> None:
    assert "provider" not in writer(File)(File(provider="east", stats=FileStats(lines=1)))
    assert refusal(File, {"provider": "east"}).code == "unknown_parameter"


def test_an_enum_value_from_a_newer_service_is_written_as_its_number() -> None:
    assert writer(Batch)(Batch(status=BatchStatus.ValueType(99)))["status"] == "99"


def test_raw_json_is_embedded() -> None:
    assert writer(ApiError)(ApiError(message="m", code_json=b'{"n":1}'))["code"] == {"n": 1}
    assert writer(ApiError)(ApiError(message="m"))["code"] is None
    assert decode(ApiError, {"message": "m", "code": 429}).code_json == b"429"


def test_null_is_the_same_as_absent() -> None:
    names = ["provider", "input_file_id", "metadata", "output_expires_after"]
    assert decode(CreateBatchRequest, dict.fromkeys(names)) == CreateBatchRequest()


def test_an_alias_is_read() -> None:
    assert decode(CreateBatchRequest, {"custom_llm_provider": "east"}).provider == "east"
    assert decode(CreateBatchRequest, {"custom_llm_provider": "east", "provider": "east"}).provider == "east"


def test_an_empty_object_is_present() -> None:
    assert decode(CreateBatchRequest, {"output_expires_after": {}}).HasField("output_expires_after")


@pytest.mark.parametrize(
    ("value", "param", "code", "words"),
    [
        ([], None, "invalid_type", "Invalid type: expected an object, but got an array instead."),
        ({"idempotency_key": "x"}, "idempotency_key", "unknown_parameter", "Unknown parameter: 'idempotency_key'."),
        ({"x\ud800": 1}, None, "invalid_value", "not valid Unicode"),
        ({"output_expires_after": {"x": 1}}, "output_expires_after.x", "unknown_parameter", "'output_expires_after.x'"),
        ({"endpoint": 1}, "endpoint", "invalid_type", "'endpoint': expected a string, but got an integer instead."),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags", "invalid_type",
         "Invalid type for 'metadata.tags': expected a string, but got an array instead."),
        ({"metadata": {"a": None}}, "metadata.a", "invalid_type", "but got null instead."),
        ({"metadata": {"a": True}}, "metadata.a", "invalid_type", "but got a boolean instead."),
        ({"metadata": "x"}, "metadata", "invalid_type", "expected an object, but got a string instead."),
        ({"output_expires_after": {"seconds": True}}, "output_expires_after.seconds", "invalid_type", "a boolean"),
        ({"output_expires_after": {"seconds": 1.0}}, "output_expires_after.seconds", "invalid_type", "a decimal"),
        ({"output_expires_after": {"seconds": 2**63}}, "output_expires_after.seconds", "invalid_value", "range"),
        ({"output_expires_after": {"seconds": -(2**80)}}, "output_expires_after.seconds", "invalid_value", "range"),
        ({"provider": "a", "custom_llm_provider": "b"}, "custom_llm_provider", "invalid_value", "two values"),
        ({"endpoint": "\ud800"}, "endpoint", "invalid_value", "not valid Unicode"),
        ({"metadata": {"\ud800": "a"}}, "metadata", "invalid_value", "not valid Unicode"),
    ],
)  # fmt: skip
def test_json_that_does_not_fit_is_refused(value: Any, param: str | None, code: str, words: str) -> None:
    error = refusal(CreateBatchRequest, value)
    assert (error.param, error.code) == (param, code)
    assert words in error.message


def test_an_unknown_word_of_an_enum_is_refused_with_the_choices() -> None:
    assert "Supported values are: 'validating', 'failed'" in refusal(Batch, {"status": "odd"}).message


def test_a_field_without_json_form_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="sha256"):
        writer(FileStats)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
big = st.integers(-(2**63), 2**63 - 1)
errors = st.fixed_dictionaries(
    {"object": st.just("list"),
     "data": st.lists(st.fixed_dictionaries(
         {"code": text, "message": text, "param": st.none() | text, "line": st.none() | big}), max_size=3)}
)  # fmt: skip
batches = st.fixed_dictionaries(
    {
        **{name: st.just(value) for name, value in BATCH.items()},
        **{name: st.none() | big for name in BATCH if name.endswith("_at") and name != "created_at"},
        **dict.fromkeys(["id", "endpoint", "input_file_id", "completion_window"], text),
        **dict.fromkeys(["model", "output_file_id", "error_file_id"], st.none() | text),
        "created_at": big,
        "errors": st.none() | errors,
        "status": st.sampled_from(["validating", "failed", "in_progress", "finalizing", "completed", "cancelled"]),
        "request_counts": st.none() | st.fixed_dictionaries(dict.fromkeys(["total", "completed", "failed"], big)),
        "metadata": st.none() | st.dictionaries(text, text, min_size=1, max_size=3),
    }
)


@given(batches)
def test_every_batch_survives_both_ways(value: dict[str, Any]) -> None:
    message = decode(Batch, value)
    assert writer(Batch)(message) == value
    assert decode(Batch, json.loads(json.dumps(writer(Batch)(message)))) == message
