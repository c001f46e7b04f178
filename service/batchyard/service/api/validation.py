"""What callers may ask for: requests become checked values, or an error in OpenAI's words that names the field."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from batchyard.common.http.disposition import has_control, last_segment
from batchyard.common.members import MOST_BYTES, TOO_DEEP, MembersError, deep_member, names_of
from batchyard.service.domain.names import MOST_ID, MOST_KEY, MOST_METADATA, MOST_VALUE, PURPOSES
from batchyard.service.domain.wording import check_one_of, missing, too_long, unknown, within
from batchyard.service.errors import InvalidArgument
from batchyard.service.jsonl.request_line import MAX_MODEL, NAMES, endpoint_of
from batchyard.service.providers.base import FileDescription, NewBatch
from batchyard.v1 import CreateBatchRequest, ExpiresAfter, UploadFileMetadata

WINDOWS = ("24h",)
EXPIRY_SECONDS = (3600, 2_592_000)  # facts 1.1
MOST_FILENAME = 512
MOST_IDEMPOTENCY_KEY = 255

_MEDIA_TYPE = re.compile(r"([\w.+-]{1,64}/[\w.+-]{1,64}(;[ !-~]{0,128})?)?", re.ASCII)
_STEERING = re.compile(
    r"(?:^|[^a-z])(?:ur[il]|blob|folder|base|key|token|secret|credential|identity|tenant|header|provider|deployment"
    r"|endpoint|host|callback|webhook|href|proxy|destination|redirect)s?(?:$|[^a-z])"
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def new_batch(request: CreateBatchRequest) -> NewBatch:
    """Raises InvalidArgument for the first field that is missing or wrong."""
    _check_blob(request)
    source = "input_blob" if request.input_blob else "input_file_id"
    for name in (source, "endpoint", "completion_window"):
        if not getattr(request, name):
            raise missing(name)
    if len(request.input_file_id) > MOST_ID:
        raise too_long("input_file_id", MOST_ID, len(request.input_file_id), "a string")
    if len(request.model) > MAX_MODEL:
        raise too_long("model", MAX_MODEL, len(request.model), "a string")
    check_one_of(request.completion_window, "completion_window", WINDOWS)
    after = request.output_expires_after if request.HasField("output_expires_after") else None
    return NewBatch(
        input_file_id=request.input_file_id,
        endpoint=endpoint if (endpoint := endpoint_of(request.endpoint)) in NAMES else request.endpoint,
        completion_window=request.completion_window,
        metadata=_metadata(request.metadata),
        output_seconds=_expiry(after, "output_expires_after"),
        key=_key(request.idempotency_key),
        extra=_extra(request.extra_json),
        input_blob=request.input_blob,
        output_folder=request.output_folder.url,
        model=request.model,
    )


def file_description(metadata: UploadFileMetadata) -> FileDescription:
    """Raises InvalidArgument for the first field that is missing or wrong."""
    if not metadata.purpose:
        raise InvalidArgument("'purpose' is a required property", param="purpose")
    check_upload(metadata)
    return begun_file(metadata)


def begun_file(metadata: UploadFileMetadata) -> FileDescription:
    """What is known of a file whose content begins. Raises InvalidArgument."""
    after = metadata.expires_after if metadata.HasField("expires_after") else None
    return FileDescription(
        metadata.purpose,
        last_segment(metadata.filename) or "upload",
        _expiry(after, "expires_after"),
        metadata.content_type or "application/octet-stream",
        metadata.size_hint if metadata.HasField("size_hint") else None,
    )


def check_upload(metadata: UploadFileMetadata) -> None:
    """Checks what is known of an upload so far, so that a wrong one ends before its bytes have come."""
    if metadata.purpose and metadata.purpose not in PURPOSES:
        message = f"'{metadata.purpose}' is not one of {list(PURPOSES)} - 'purpose'"
        raise InvalidArgument(message, param="purpose")
    filename = last_segment(metadata.filename)
    if len(filename) > MOST_FILENAME or has_control(filename):
        raise InvalidArgument(
            f"Invalid 'filename': expected at most {MOST_FILENAME} characters, none of them a control character.",
            param="file",
        )
    # The SDKs send bytes without a name as `upload`; what has an extension must have the right one.
    if not _MEDIA_TYPE.fullmatch(metadata.content_type):
        raise InvalidArgument("Invalid 'content_type': expected a media type.", param="content_type")
    if metadata.size_hint < 0:
        raise InvalidArgument("Invalid 'size_hint': expected a value >= 0.", param="size_hint")
    if metadata.purpose == "batch" and "." in filename and not filename.endswith(".jsonl"):
        raise InvalidArgument("Invalid file format for Batch API. Must be .jsonl")


def page_limit(given: int | None, default: int, most: int) -> int:
    """A list's limit: 1 to `most`."""
    return default if given is None else within(given, "limit", 1, most)


def _check_blob(request: CreateBatchRequest) -> None:
    """A blob stands for the file, needs a folder for the results, and takes no metadata (facts 5.3)."""
    if not request.input_blob:
        if request.HasField("output_folder"):
            raise unknown("output_folder")
    elif request.input_file_id or request.metadata:
        name = "input_file_id" if request.input_file_id else "metadata"
        raise InvalidArgument(f"Invalid '{name}': a batch over a blob has none.", param=name, code="invalid_value")
    elif not request.output_folder.url:
        raise missing("output_folder.url")


def _extra(raw: bytes) -> dict[str, Any]:
    """Members for the provider. Raises InvalidArgument where one could select a provider, a URL or an identity."""
    if len(raw) > MOST_BYTES:
        raise _unfit_extra(f"expected at most {MOST_BYTES} bytes.")
    try:
        members = msgspec.json.decode(raw or b"{}", type=dict[str, Any])
        for name in names_of(members):
            if _STEERING.search(_HUMP.sub("_", name).lower()):
                raise unknown(name)
    except RecursionError:
        name = deep_member(raw)
        raise _unfit_extra(f"'{name}': {TOO_DEEP}" if name else TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _unfit_extra("expected a JSON object.") from None
    except MembersError as error:
        raise _unfit_extra(f"'{error.name}': {error.problem}") from None
    return members


def _unfit_extra(problem: str) -> InvalidArgument:
    return InvalidArgument(f"Invalid 'extra_json': {problem}", param="extra_json")


def _key(key: str) -> str:
    """The key without white space around it, which a header doesn't have either (RFC 9110, 5.5)."""
    key = key.strip(" \t")
    if len(key) > MOST_IDEMPOTENCY_KEY:
        raise too_long("idempotency_key", MOST_IDEMPOTENCY_KEY, len(key), "a string")
    return key


def _metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    if len(metadata) > MOST_METADATA:
        raise InvalidArgument(
            f"Invalid 'metadata': too many properties. Expected an object with at most {MOST_METADATA} properties, "
            f"but got an object with {len(metadata)} properties instead.",
            param="metadata",
            code="object_above_max_properties",
        )
    for key, value in metadata.items():
        if len(key) > MOST_KEY:
            raise too_long(f"metadata.{key[:MOST_KEY]}", MOST_KEY, len(key), "a key")
        if len(value) > MOST_VALUE:
            raise too_long(f"metadata.{key}", MOST_VALUE, len(value), "a string")
    return dict(metadata)


def _expiry(after: ExpiresAfter | None, param: str) -> int | None:
    if after is None:
        return None
    check_one_of(after.anchor, f"{param}.anchor", ("created_at",))
    return within(after.seconds, f"{param}.seconds", *EXPIRY_SECONDS)


def required(value: str, name: str) -> str:
    """The value of a field that must be set. Raises InvalidArgument for an empty one."""
    if not value:
        raise missing(name)
    return value
