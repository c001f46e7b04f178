"""The files of an account."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.upstream.dialect import Dialect, Digests
from tests.upstream.forms import Upload
from tests.upstream.quirks import Quirks
from tests.upstream.refusals import Json, Refusal, check_choice, invalid, limit_of


@dataclass
class StoredFile:
    """A file: its description as the provider gives it, and what it holds."""

    description: Json
    data: bytes
    sha256: str
    size: int
    lines: int
    deleted: bool = False
    reads: int = 0

    @property
    def processed(self) -> bool:
        return bool(self.description["status"] == "processed")


class Files:
    """Keeps files, and lets time pass over them: those that are pending, and those that expire.

    While it is `stuck`, no file that is uploaded ceases to be pending; others come to the status `end`.
    """

    def __init__(self, dialect: Dialect, quirks: Quirks, digests: Digests, clock: Callable[[], float]) -> None:
        self.stored: dict[str, StoredFile] = {}
        self.stuck = False
        self.end = "processed"
        self._dialect = dialect
        self._quirks = quirks
        self._digests = digests
        self._clock = clock

    def add(self, upload: Upload, purpose: str, *, life: int | None) -> StoredFile:
        """Stores a file that expires after `life` seconds. One of a batch's results is processed at once."""
        own = purpose == "batch_output"
        waits = not own and (self.stuck or bool(self._quirks.pending_reads))
        file_id = (self._dialect.output_id if own else self._dialect.file_id)(self._digests())
        now = int(self._clock())
        description = {
            "object": "file",
            "id": file_id,
            "purpose": purpose,
            "filename": upload.filename,
            "bytes": None if waits and self._quirks.bytes_null_while_pending else upload.size,
            "created_at": now,
            "expires_at": now + life if life else None,
            "status": self._dialect.pending[0] if waits else "processed",
            **self._dialect.file_members,
        }
        stored = StoredFile(description, upload.data, upload.sha256, upload.size, upload.lines)
        self.stored[file_id] = stored
        return stored

    def find(self, file_id: str) -> StoredFile | None:
        """The file, if it is there still."""
        stored = self.stored.get(file_id)
        return stored if stored and self._is_there(stored) else None

    def read(self, stored: StoredFile) -> Json:
        """What a GET says of a file; it may be what makes it processed."""
        if not stored.processed and not self.stuck:
            stored.reads += 1
            done = stored.reads >= (self._quirks.pending_reads or 0)
            stored.description["status"] = self.end if done else self._dialect.pending[1]
            if done:
                stored.description["bytes"] = stored.size
        return stored.description

    def matching(self, purpose: str | None, order: str = "desc") -> list[tuple[str, Json | None]]:
        """Ids and descriptions in an order; None for those that are gone, which are still where a page may begin."""
        check_choice("order", order, ["asc", "desc"])
        shown = [
            (
                file_id,
                one.description if self._is_there(one) and purpose in {None, one.description["purpose"]} else None,
            )
            for file_id, one in self.stored.items()
        ]
        return shown if order == "asc" else shown[::-1]

    def count(self, *, expiring: bool) -> int:
        """How many inputs of batches there are, of those that expire or of the others."""
        inputs = (one.description for one in self.stored.values() if self._is_there(one))
        return sum(one["purpose"] == "batch" and (one["expires_at"] is not None) == expiring for one in inputs)

    def _is_there(self, stored: StoredFile) -> bool:
        expires_at = stored.description["expires_at"]
        return not stored.deleted and (expires_at is None or self._clock() < expires_at)


def page(
    found: Iterable[tuple[str, Json | None]], query: dict[str, str], usual: int, most: int
) -> tuple[list[Json], bool]:
    """The items after `after`, and whether there are more."""
    items = list(found)
    limit = limit_of(query, usual, most)
    if after := query.get("after"):
        ids = [item_id for item_id, _ in items]
        if after not in ids:
            raise invalid("after", "invalid_value", f"Invalid 'after': '{after}' is not known.")
        items = items[ids.index(after) + 1 :]
    there = [item for _, item in items if item is not None]
    return there[:limit], len(there) > limit


def kept(data: bytes, filename: str) -> Upload:
    """An upload of bytes that are at hand."""
    upload = Upload(filename)
    upload.add(data)
    return upload


def unknown_file(file_id: str) -> Refusal:
    return Refusal(404, f"No such File object: {file_id}", param="id")
