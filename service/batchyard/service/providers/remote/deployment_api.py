"""The Files and Batches API of one deployment: answers in OpenAI's form, each about what it was asked for.

A server that answers about another file or batch than the one that was asked for, or with something else altogether, is
not believed: that raises Refused, as where it can't be reached, and may be asked again.
"""

from collections.abc import AsyncGenerator

from batchyard.service.domain.records import ENDED, Status
from batchyard.service.errors import Refused
from batchyard.service.providers.openai.dialect import Members, OpenAI
from batchyard.service.providers.remote import fields
from batchyard.service.upstream.client import ANSWERED, UpstreamClient, segment

_LARGEST_PAGE = 20_000  # entries; Azure's older family lists all files at once
_STOPPED = {*ENDED, Status.CANCELLING}
_BATCHES = {"limit": "100"}
_NO_ROUTE = {404, 405, 501}


class DeploymentApi:
    """Calls of one deployment by what they are about. All raise Refused."""

    def __init__(self, client: UpstreamClient, dialect: OpenAI) -> None:
        self._client = client
        self._dialect = dialect

    async def batch(self, native_id: str) -> Members:
        """The batch as it is."""
        answer = await self._client.read("batches", f"/batches/{segment(native_id)}")
        return self._batch(answer, native_id)

    async def cancel(self, native_id: str) -> Members:
        """The batch after it was asked to stop; where the answer says nothing, it is looked at, and must show that."""
        answer = await self._client.again("batches.cancel", f"/batches/{segment(native_id)}/cancel")
        if not answer and (found := await self.batch(native_id))["status"] in _STOPPED:
            return found
        return self._batch(answer, native_id)

    async def file(self, native_id: str) -> Members:
        """The file's description."""
        answer = await self._client.read("files", f"/files/{segment(native_id)}")
        self._check(answer, native_id, "file")
        return self._dialect.file(answer)

    async def delete_file(self, native_id: str) -> None:
        """Removes a file; one that is not there is removed."""
        answer = await self._client.remove("files", f"/files/{segment(native_id)}")
        named = fields.identifier(answer.get("id"))
        if (named and named != native_id) or answer.get("deleted") is False:
            raise self._client.misled("The provider's answer is not that it deleted this file.")

    async def newest_batches(self) -> list[Members]:
        """The first page of `batches`, asked for one time. Raises Unsure too, where no answer came."""
        return self._page(await self._client.read_once("batches", "/batches", _BATCHES))[0]

    def batches(self, most: int) -> AsyncGenerator[list[Members]]:
        """All batches, newest first, in up to `most` pages; their entries as they came."""
        return self._pages("batches", _BATCHES, most)

    def inputs(self, most: int) -> AsyncGenerator[list[Members]]:
        """The inputs of batches, whoever sent them, likewise."""
        return self._pages("files", {"purpose": "batch"}, most)

    def read_batch(self, entry: Members) -> Members | None:
        """A list's entry, or the answer to a creation, in OpenAI's form; None where it is no batch."""
        found = self._dialect.batch(entry) if fields.is_kind(entry, "batch") else {}
        return found if found.get("id") else None

    def read_file(self, answer: Members) -> Members | None:
        """The answer to an upload in OpenAI's form; None where it is no file."""
        found = self._dialect.file(answer) if fields.is_kind(answer, "file") else {}
        return found if found.get("id") else None

    async def _pages(self, kind: str, asked: dict[str, str], most: int) -> AsyncGenerator[list[Members]]:
        after: dict[str, str] = {}
        passed = set[str]()
        for _ in range(most):
            answer = await self._client.read(kind, f"/{kind}", {**asked, **after})
            entries, more = self._page(answer)
            yield entries
            last = next(filter(None, (fields.identifier(entry.get("id")) for entry in reversed(entries))), "")
            if not more or not last:
                return
            if last in passed:
                if answer.get("has_more"):
                    raise self._client.misled("The provider's list says that more follow, and does not go on.")
                return
            passed.add(last)
            after = {"after": last}

    def _page(self, answer: Members) -> tuple[list[Members], bool]:
        page = self._dialect.page(answer)
        if page is None or len(page[0]) > _LARGEST_PAGE:
            raise self._client.misled("The provider's answer is not a list.")
        return page

    def _batch(self, answer: Members, native_id: str) -> Members:
        self._check(answer, native_id, "batch")
        found = self._dialect.batch(answer)
        if not found.get("status"):
            raise self._client.misled("The provider's answer is not a batch.")
        return found

    def _check(self, answer: Members, native_id: str, kind: str) -> None:
        if not fields.is_kind(answer, kind) or not fields.identifier(answer.get("id")):
            raise self._client.misled(f"The provider's answer is not a {kind}.")
        if fields.identifier(answer.get("id")) != native_id:
            raise self._client.misled(f"The provider's answer is about another {kind}.")


def is_unreadable(error: Refused) -> bool:
    """Whether a deployment answered, with something that is none to what was asked."""
    return error.upstream.http_status == ANSWERED


def is_missing_route(error: Refused) -> bool:
    """Whether a deployment has no such call at all, rather than failing at it."""
    return error.upstream.http_status in _NO_ROUTE
