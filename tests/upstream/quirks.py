"""The ways in which a provider's answers vary, as switches."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Quirks:
    """What a fake does differently; where None is allowed it stands for the provider's usual way."""

    auto: bool = True
    """A batch takes one step each time that it is read; else it moves only when it is told."""

    pending_reads: int | None = None
    """A file is processed at that many GETs of it; 0: in the answer to its upload. Usual: OpenAI 0, Azure 1."""
    bytes_null_while_pending: bool = False
    created_201: bool | None = None
    """An upload is answered 201 with a Location. Usual: in Azure's older family alone."""
    delete_empty: bool = False
    """A delete is answered 204 without a body."""

    endpoint_prefix_dropped: bool | None = None
    """A batch's endpoint comes back without /v1. Usual: at Azure."""
    endpoint_null: bool = False
    endpoint_empty: bool = False
    """A batch's endpoint is "" while it is validated."""
    id_ending: str = ""
    """What every id of a file or a batch ends in."""
    empty_ids: bool = False
    """Ids of output and error files are "" where others say null: before the end, and for no errors."""
    zero_byte_error_file: bool | None = None
    """A batch without failures has an error file, of no bytes. Usual: at Azure."""
    failed_as_completed: bool = False
    """A failed batch has no failed_at but a completed_at, and empty output and error files."""
    iso_times: bool = False
    """Times of batches are ISO 8601 texts."""
    cased_status: bool = False
    """A batch is `Validating`; statuses have a capital."""
    unknown_status: bool = False
    """A batch that was in_progress is `paused` for one step."""
    null_counts: bool = False
    """request_counts is null until results are there."""
    no_usage: bool | None = None
    """Batches have neither model nor usage. Usual: at Azure."""
    lines_as_text: bool = False
    """Numbers of lines in a batch's errors are texts."""
    extra_members: bool = False
    """Files, batches, usage and errors have members that no client knows."""

    list_value_key: bool = False
    """A list of batches has its items in `value`, not `data`."""
    list_without_more: bool = False
    """Lists have no has_more, first_id and last_id. Azure's older list of files never has them."""

    ranges: bool = True
    """A range of a content is answered 206; else with the whole content."""
    content_chunked: bool = False
    """A content comes without its length."""
    discard: bool = False
    """Uploads are hashed and counted, but not kept; batches of them succeed on every line."""
    abridge: bool = False
    """Of each line of an upload a short form is kept, with a hash for its prompt."""
    content_bytes: int | None = None
    """The content of any id of a file is that many made-up bytes of result lines; but empty error files stay empty."""

    old_errors: bool = False
    """Azure's oldest form of a 401."""
    fail_fast_tokens: bool = False
    """A create is refused with token_limit_exceeded."""
    late_tokens: bool = False
    """A batch fails in its validation with token_limit_exceeded."""

    def settled(self, **usual: Any) -> "Quirks":
        """The same with `usual` where nothing is said."""
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) is None})
