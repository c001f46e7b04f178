"""OpenAI's API, or any server that speaks it: what other providers' objects are turned into."""

from collections.abc import Iterator, Mapping
from typing import Any

from batchyard.service.config.settings import Deployment, UpstreamSettings
from batchyard.service.domain.wording import unknown
from batchyard.service.providers.base import FileDescription, NewBatch
from batchyard.service.providers.remote import fields

Members = dict[str, Any]


class OpenAI:
    """Access to a deployment, and a `Dialect`."""

    waits_for_files = False
    """Whether a batch is refused while its input is `uploaded`; some servers never call one anything else."""
    _list_names: tuple[str, ...] = ("data",)

    def __init__(self, deployment: Deployment, settings: UpstreamSettings) -> None:
        self.base = deployment.api_base
        self.params: Mapping[str, str] = {}
        self.poll_seconds = settings.openai_poll_seconds
        self.early_looks: tuple[float, ...] = ()
        named = {
            "authorization": f"Bearer {deployment.api_key}" if deployment.api_key else None,
            "openai-organization": deployment.organization,
            "openai-project": deployment.project,
        }
        self._headers = {name: value for name, value in named.items() if value}

    async def headers(self) -> Mapping[str, str]:
        return self._headers

    def error_code(self, code: Any) -> Any:
        return code

    def file_fields(self, description: FileDescription) -> Iterator[tuple[str, str]]:
        """The fields of an upload's form beside the file, as far as they are known."""
        if description.purpose:
            yield "purpose", description.purpose
        if description.seconds is not None:
            yield from expiry_fields(description.seconds)

    def usual_fields(self, description: FileDescription) -> Iterator[tuple[str, str]]:
        """The fields that an upload gets where its caller doesn't say otherwise."""
        yield from ()

    def create(self, new: NewBatch, input_file_id: str) -> Members:
        """The body that creates a batch."""
        body: Members = {
            **new.extra,
            **self.source(new, input_file_id),
            "endpoint": new.endpoint,
            "completion_window": new.completion_window,
        }
        if new.model:
            body["model"] = new.model
        if new.output_seconds is not None:
            body["output_expires_after"] = {"anchor": "created_at", "seconds": new.output_seconds}
        return body

    def source(self, new: NewBatch, input_file_id: str) -> Members:
        """The members that say where a batch's input is. Raises InvalidArgument for a blob that is not allowed."""
        if new.input_blob:
            raise unknown("input_blob")
        return {"input_file_id": input_file_id}

    def file(self, members: Members) -> Members:
        """A file's description in OpenAI's form."""
        return fields.file(members)

    def batch(self, members: Members) -> Members:
        """A batch in OpenAI's form; "" is no id, whoever writes it (facts 2)."""
        return fields.batch(members)

    def page(self, answer: Members) -> tuple[list[Members], bool] | None:
        """A list's entries, and whether more follow; None where the answer is no list.

        Some servers don't say whether more follow: then they may, as long as something came. An empty list may be null.
        """
        name = next((name for name in self._list_names if name in answer), None)
        listed = answer[name] if name else ()
        if not name or not isinstance(listed, list | None):
            return None
        entries = [entry for entry in listed or () if isinstance(entry, dict)]
        more = answer.get("has_more")
        return entries, bool(entries) if more is None else bool(more) and more not in ("false", "False")

    def no_errors(self, file: Members) -> bool:
        """Whether an error file stands for no errors."""
        return False


def expiry_fields(seconds: int) -> Iterator[tuple[str, str]]:
    """A file's expiry as fields of its form."""
    yield "expires_after[anchor]", "created_at"
    yield "expires_after[seconds]", str(seconds)
