"""Every rule of `requests.py`, with the param, code and message that a caller reads (facts 1.1, 1.4 and 4)."""

from typing import Any

import pytest

from batchyard.service.api.validation import check_upload, file_description, new_batch, page_limit
from batchyard.service.domain.names import PURPOSES
from batchyard.service.errors import InvalidArgument
from batchyard.service.providers.base import NewBatch, check_ours
from batchyard.v1 import CreateBatchRequest, ExpiresAfter, UploadFileMetadata

Wrong = tuple[str | None, str | None, str]

ENDPOINTS = "'/v1/chat/completions', '/v1/completions', '/v1/embeddings', '/v1/moderations', and '/v1/responses'"


def create_request(**changes: Any) -> CreateBatchRequest:
    whole = {"input_file_id": "file-abc", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return CreateBatchRequest(**{**whole, **changes})


def created_plus(seconds: int) -> ExpiresAfter:
    return ExpiresAfter(anchor="created_at", seconds=seconds)


def assert_is(error: InvalidArgument, wrong: Wrong) -> None:
    assert (error.param, error.code, error.message) == wrong


class TestANewBatch:
    def test_has_what_was_asked_for(self) -> None:
        new = new_batch(create_request(metadata={"k": "v"}, output_expires_after=created_plus(3600)))
        assert new == NewBatch("file-abc", "/v1/chat/completions", "24h", {"k": "v"}, 3600)

    def test_keeps_results_for_the_default_time_when_it_says_nothing(self) -> None:
        assert new_batch(create_request()).output_seconds is None

    @pytest.mark.parametrize("name", ["chat/completions", "completions", "embeddings", "moderations", "responses"])
    @pytest.mark.parametrize("prefix", ["/v1/", "/"])
    def test_takes_every_endpoint_with_and_without_its_version(self, prefix: str, name: str) -> None:
        assert new_batch(create_request(endpoint=prefix + name)).endpoint == f"/v1/{name}"

    @pytest.mark.parametrize("name", ["input_file_id", "endpoint", "completion_window"])
    def test_needs_each_required_parameter(self, name: str) -> None:
        with pytest.raises(InvalidArgument) as raised:
            new_batch(create_request(**{name: ""}))
        assert_is(raised.value, (name, "missing_required_parameter", f"Missing required parameter: '{name}'."))

    def test_names_the_first_parameter_that_is_missing(self) -> None:
        with pytest.raises(InvalidArgument) as raised:
            new_batch(CreateBatchRequest())
        assert raised.value.param == "input_file_id"

    @pytest.mark.parametrize("endpoint", ["/v1/x", "/v1/chat/completions/", "v1/chat/completions", "/V1/responses"])
    def test_of_another_endpoint_is_refused(self, endpoint: str) -> None:
        with pytest.raises(InvalidArgument) as raised:
            check_ours(new_batch(create_request(endpoint=endpoint)))
        message = f"Invalid value: '{endpoint}'. Supported values are: {ENDPOINTS}."
        assert_is(raised.value, ("endpoint", "invalid_value", message))

    @pytest.mark.parametrize("window", ["48h", "24", "24H"])
    def test_of_another_window_is_refused(self, window: str) -> None:
        with pytest.raises(InvalidArgument) as raised:
            new_batch(create_request(completion_window=window))
        message = f"Invalid value: '{window}'. Supported values are: '24h'."
        assert_is(raised.value, ("completion_window", "invalid_value", message))

    def test_with_an_overlong_file_id_is_refused(self) -> None:
        assert new_batch(create_request(input_file_id="f" * 256))
        with pytest.raises(InvalidArgument) as raised:
            new_batch(create_request(input_file_id="f" * 257))
        message = (
            "Invalid 'input_file_id': string too long. Expected a string with maximum length 256, "
            "but got a string with length 257 instead."
        )
        assert_is(raised.value, ("input_file_id", "string_above_max_length", message))


def nested(depth: int) -> bytes:
    return b'{"good": 1, "x": ' + b"[" * depth + b"]" * depth + b"}"


class TestUnknownMembers:
    def test_are_kept_within_the_bounds(self) -> None:
        new = new_batch(create_request(extra_json=nested(31)))
        assert new.extra.keys() == {"good", "x"}

    @pytest.mark.parametrize("depth", [32, 300, *range(968, 985), 1000, 10_000, 30_000])
    def test_that_are_too_deep_are_refused_at_any_depth(self, depth: int) -> None:
        with pytest.raises(InvalidArgument) as raised:
            new_batch(create_request(extra_json=nested(depth)))
        assert raised.value.param == "extra_json"
        assert "nested too deeply. Expected at most 32 levels." in raised.value.message

    @pytest.mark.parametrize(
        ("raw", "words"),
        [
            (b'{"x":"' + b"x" * 1_000_000 + b'"}', "expected at most 65536 bytes."),
            (b"[" * 1_000_000, "expected at most 65536 bytes."),
            (b'{"x":[' + b"1," * 2000 + b"1]}", "'x': too many values."),
            (b"{" + b",".join(b'"k%d":1' % number for number in range(1001)) + b"}", "too many values."),
            (b"[]", "expected a JSON object."),
            (b'{"x":"\\ud800"}', "expected a JSON object."),
            (b'{"x":"\xff"}', "expected a JSON object."),
            (b'{"\xed\xa0\x80":1}', "expected a JSON object."),
        ],
        ids=["text", "brackets", "elements", "members", "array", "surrogate", "bytes", "name"],
    )
    def test_beyond_the_bounds_are_refused(self, raw: bytes, words: str) -> None:
        with pytest.raises(InvalidArgument) as raised:
            new_batch(create_request(extra_json=raw))
        assert raised.value.param == "extra_json"
        assert words in raised.value.message

    def test_that_could_steer_a_provider_are_refused_at_any_depth_and_before_deeper_ones_are_seen(self) -> None:
        for raw in (b'{"x": [{"callbackUrl": 1}]}', b'{"x": ' + b"[" * 40 + b"]" * 40 + b', "callbackUrl": 1}'):
            with pytest.raises(InvalidArgument) as raised:
                new_batch(create_request(extra_json=raw))
            assert (raised.value.param, raised.value.code) == ("callbackUrl", "unknown_parameter")


class TestMetadata:
    def test_at_its_bounds_is_taken(self) -> None:
        metadata = {f"{number:064}": "ä" * 512 for number in range(16)}
        assert new_batch(create_request(metadata=metadata)).metadata == metadata

    def test_of_seventeen_pairs_is_refused(self) -> None:
        with pytest.raises(InvalidArgument) as raised:
            new_batch(create_request(metadata={str(number): "" for number in range(17)}))
        message = (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
            "but got an object with 17 properties instead."
        )
        assert_is(raised.value, ("metadata", "object_above_max_properties", message))

    def test_with_an_overlong_value_is_refused(self) -> None:
        with pytest.raises(InvalidArgument) as raised:
            new_batch(create_request(metadata={"k": "v" * 513}))
        message = (
            "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, "
            "but got a string with length 513 instead."
        )
        assert_is(raised.value, ("metadata.k", "string_above_max_length", message))

    def test_with_an_overlong_key_is_refused_and_the_key_is_cut(self) -> None:
        with pytest.raises(InvalidArgument) as raised:
            new_batch(create_request(metadata={"k" * 65: "v"}))
        name = f"metadata.{'k' * 64}"
        message = (
            f"Invalid '{name}': string too long. Expected a key with maximum length 64, "
            "but got a string with length 65 instead."
        )
        assert_is(raised.value, (name, "string_above_max_length", message))


BELOW = "integer below minimum value. Expected a value >= 3600"
ABOVE = "integer above maximum value. Expected a value <= 2592000"


class TestExpiry:
    @pytest.mark.parametrize("seconds", [3600, 2_592_000])
    def test_at_its_bounds_is_taken(self, seconds: int) -> None:
        metadata = UploadFileMetadata(purpose="batch", expires_after=created_plus(seconds))
        assert file_description(metadata).seconds == seconds
        assert new_batch(create_request(output_expires_after=created_plus(seconds))).output_seconds == seconds

    @pytest.mark.parametrize(
        ("seconds", "side", "code"),
        [
            (3599, BELOW, "integer_below_min_value"),
            (0, BELOW, "integer_below_min_value"),
            (-1, BELOW, "integer_below_min_value"),
            (2_592_001, ABOVE, "integer_above_max_value"),
            (2**62, ABOVE, "integer_above_max_value"),
        ],
    )
    def test_beyond_them_is_refused(self, seconds: int, side: str, code: str) -> None:
        after = created_plus(seconds)
        for param, check in (
            ("expires_after", lambda: file_description(UploadFileMetadata(purpose="batch", expires_after=after))),
            ("output_expires_after", lambda: new_batch(create_request(output_expires_after=after))),
        ):
            with pytest.raises(InvalidArgument) as raised:
                check()
            name = f"{param}.seconds"
            assert_is(raised.value, (name, code, f"Invalid '{name}': {side}, but got {seconds} instead."))

    @pytest.mark.parametrize("anchor", ["", "now", "last_active_at"])
    def test_from_another_anchor_is_refused(self, anchor: str) -> None:
        with pytest.raises(InvalidArgument) as raised:
            new_batch(create_request(output_expires_after=ExpiresAfter(anchor=anchor, seconds=3600)))
        message = f"Invalid value: '{anchor}'. Supported values are: 'created_at'."
        assert_is(raised.value, ("output_expires_after.anchor", "invalid_value", message))


class TestAnUpload:
    @pytest.mark.parametrize("purpose", PURPOSES)
    def test_of_every_purpose_is_described(self, purpose: str) -> None:
        metadata = UploadFileMetadata(purpose=purpose, filename="a.jsonl")
        assert file_description(metadata) == (purpose, "a.jsonl", None, "application/octet-stream", None)

    def test_without_a_name_is_called_upload(self) -> None:
        assert file_description(UploadFileMetadata(purpose="batch")).filename == "upload"

    def test_needs_a_purpose_in_the_end(self) -> None:
        check_upload(UploadFileMetadata(filename="a.jsonl"))
        with pytest.raises(InvalidArgument) as raised:
            file_description(UploadFileMetadata(filename="a.jsonl"))
        assert_is(raised.value, ("purpose", None, "'purpose' is a required property"))

    @pytest.mark.parametrize("purpose", ["vector_store", "batch_output", "Batch", " batch"])
    def test_of_another_purpose_is_refused(self, purpose: str) -> None:
        with pytest.raises(InvalidArgument) as raised:
            check_upload(UploadFileMetadata(purpose=purpose))
        message = (
            f"'{purpose}' is not one of ['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals'] "
            "- 'purpose'"
        )
        assert_is(raised.value, ("purpose", None, message))

    @pytest.mark.parametrize("filename", ["a.json", "a.jsonl.gz", "a.JSONL", "jsonl.", ".txt"])
    def test_of_a_batch_with_another_extension_is_refused(self, filename: str) -> None:
        check_upload(UploadFileMetadata(purpose="user_data", filename=filename))
        with pytest.raises(InvalidArgument) as raised:
            check_upload(UploadFileMetadata(purpose="batch", filename=filename))
        assert_is(raised.value, (None, None, "Invalid file format for Batch API. Must be .jsonl"))

    @pytest.mark.parametrize("filename", ["a.jsonl", "upload", "a.b.jsonl", "Ünïcode 文.jsonl"])
    def test_of_a_batch_may_have_the_right_extension_or_none(self, filename: str) -> None:
        check_upload(UploadFileMetadata(purpose="batch", filename=filename))

    @pytest.mark.parametrize(
        "filename", ["a\n.jsonl", "a\x00.jsonl", "\x7f", "\x9b", "a\u2028b", "a\r\nb.jsonl", "n" * 513]
    )
    def test_with_a_name_that_could_break_a_header_is_refused(self, filename: str) -> None:
        with pytest.raises(InvalidArgument) as raised:
            check_upload(UploadFileMetadata(filename=filename))
        message = "Invalid 'filename': expected at most 512 characters, none of them a control character."
        assert_is(raised.value, ("file", None, message))


class TestAPageLimit:
    def test_is_the_default_where_none_is_given(self) -> None:
        assert page_limit(None, 20, 100) == 20

    @pytest.mark.parametrize("limit", [1, 100])
    def test_at_its_bounds_is_taken(self, limit: int) -> None:
        assert page_limit(limit, 20, 100) == limit

    @pytest.mark.parametrize("limit", [0, -1, -(2**31)])
    def test_below_one_is_refused(self, limit: int) -> None:
        with pytest.raises(InvalidArgument) as raised:
            page_limit(limit, 20, 100)
        message = f"Invalid 'limit': integer below minimum value. Expected a value >= 1, but got {limit} instead."
        assert_is(raised.value, ("limit", "integer_below_min_value", message))

    def test_above_the_maximum_is_refused(self) -> None:
        with pytest.raises(InvalidArgument) as raised:
            page_limit(101, 20, 100)
        message = "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead."
        assert_is(raised.value, ("limit", "integer_above_max_value", message))
