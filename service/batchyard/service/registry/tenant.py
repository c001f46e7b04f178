"""The registry as one tenant sees it: every query here carries the tenant, and nothing else reads for a caller."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import Connection, Table, delete, select, update

from batchyard.service.config.names import GROUPS
from batchyard.service.config.settings import Rate
from batchyard.service.domain.keys import KeyRecord
from batchyard.service.domain.names import INTERNAL
from batchyard.service.domain.quotas import Bound
from batchyard.service.domain.records import (
    ENDED,
    BatchRecord,
    FileRecord,
    IdempotencyKey,
    Part,
    PlacementRecord,
    Status,
)
from batchyard.service.errors import AlreadyExists, FailedPrecondition, NotFound
from batchyard.service.registry.base import Database, tenant
from batchyard.service.registry.base import batch as batch_of
from batchyard.service.registry.dialects.sqlite_statements import Prepared, given, named, names
from batchyard.service.registry.rows import BATCH_COLUMNS, PLACEMENT_COLUMNS, added
from batchyard.service.registry.schema import IS_LIVE, batches, file_parts, files, idempotency_keys, placements
from batchyard.service.registry.usage import (
    UPLOADS,
    UsageEstimate,
    check_batch,
    check_creations,
    check_rate,
    stored_bytes,
)
from batchyard.service.registry.views import View

KEY_SECONDS = 86_400  # how long an idempotency key is remembered
REUSED = "This idempotency key was used for another request in the last 24 hours."

_KEY = (idempotency_keys.c.tenant == given("tenant"), idempotency_keys.c.key == given("key"))
REMEMBERED: Prepared[dict[str, Any]] = Prepared(select(idempotency_keys).where(*_KEY), dict)
_FORGET: Prepared[dict[str, Any]] = Prepared(delete(idempotency_keys).where(*_KEY), dict)
_CONTENT = select(file_parts.c.key, file_parts.c.size, file_parts.c.sums).join(
    files, files.c.seq == file_parts.c.file_seq
)
_CONTENT = _CONTENT.where(files.c.tenant == given("tenant"), files.c.seq == given("seq")).order_by(file_parts.c.n)
_PARTS = Prepared(_CONTENT, Part)


class TenantRegistry:
    """Files and batches of one tenant. An id of another tenant's is NotFound, by the same query as a missing one.

    `provider`, where it is not empty, filters, by a provider's name or a deployment's: a row elsewhere is NotFound, and
    so is one at a place that the tenant's `key` may not use. What is added carries that key's id.
    """

    def __init__(
        self,
        database: Database,
        tenant: str,
        key: KeyRecord | None = None,
        homes: Mapping[str, str] = {},
        bounds: Sequence[Bound] = (),
    ) -> None:
        """`homes` has the provider of each deployment: a batch may fail before it gets to one.

        `bounds` are the limits that hold for who asks.
        """
        self._database = database
        self.tenant = tenant
        self.key = key
        self.bounds = bounds
        self._homes = homes

    @property
    def key_id(self) -> str | None:
        return self.key.id if self.key else None

    async def add_file(self, values: dict[str, Any], parts: Sequence[Part]) -> FileRecord:
        """Registers a file whose bytes are durable already. `values` are columns of `files`."""
        row = {**values, "tenant": self.tenant, "key_id": self.key_id}
        return await self._database.write(lambda connection: insert_file(connection, row, parts), tenant(self.tenant))

    async def check_uploads(self, rate: Rate | None, now: int, running: int) -> None:
        """Raises Busy where the tenant has uploaded its share of files, those that are still coming included."""
        if rate and self.tenant != INTERNAL:
            await self._database.read(
                lambda connection: check_rate(connection, UPLOADS, rate, self.tenant, now, running)
            )

    async def stored(self, bounds: Sequence[Bound]) -> list[int]:
        """Bytes that each of these has stored."""
        return await self._database.read(lambda connection: [stored_bytes(connection, bound) for bound in bounds])

    async def get_file(self, file_id: str, provider: str = "") -> FileRecord:
        view = self._view(provider)
        return await self._database.look(lambda connection: _found(connection, view, files, file_id, no_file))

    async def parts(self, file: FileRecord) -> list[Part]:
        """The file's content, in order."""
        return await self._database.read(lambda c: _PARTS.all(c, tenant=self.tenant, seq=file.seq))

    async def list_files(
        self, *, provider: str, purpose: str, after: str, limit: int, ascending: bool
    ) -> tuple[list[FileRecord], bool]:
        """A page in the order of creation, and whether more follow. Raises InvalidArgument for an unknown `after`."""
        view = self._view(provider)
        page = partial(view.page, after=after, limit=limit, ascending=ascending, purpose=purpose)
        return await self._database.read(lambda connection: page(connection, files))

    async def delete_file(self, file_id: str, provider: str, now: int) -> FileRecord:
        """Marks a file as deleted; its bytes are the caller's to remove. Raises FailedPrecondition while it is read."""
        view = self._view(provider)

        def work(connection: Connection) -> FileRecord:
            file: FileRecord = _found(connection, view, files, file_id, no_file)
            self.check_unread(connection, file_id)
            connection.execute(update(files).where(files.c.seq == file.seq).values(deleted_at=now))
            return file

        return await self._database.write(work, tenant(self.tenant), urgent=True)

    async def add_batch(
        self,
        values: dict[str, Any],
        once: IdempotencyKey | None = None,
        rate: Rate | None = None,
        estimate: UsageEstimate = UsageEstimate(0, 0),  # noqa: B008 - never changed
    ) -> BatchRecord:
        """Registers a batch. `values` are columns of `batches`. Raises Busy where `rate` or a limit is exceeded.

        With `once`, a repeat gets the batch that the first one made; another request under its key AlreadyExists.
        """
        row = {**values, **estimate.columns, "tenant": self.tenant, "key_id": self.key_id}

        def work(connection: Connection) -> BatchRecord:
            if once and (made := self.made(connection, once)):
                return made
            self.check(connection, rate, values["created_at"], estimate)
            batch: BatchRecord = added(connection, batches, row)
            if once:
                mine = {"tenant": self.tenant, "batch_seq": batch.seq, **once._asdict()}
                added(connection, idempotency_keys, mine)
            return batch

        return await self._database.write(work, tenant(self.tenant))

    def check(self, connection: Connection, rate: Rate | None, now: int, estimate: UsageEstimate) -> None:
        """Raises Busy where one batch more would exceed `rate` or a limit."""
        headroom = self._database.headroom
        if rate and self.tenant != INTERNAL:
            check_creations(connection, headroom, rate, self.tenant, now)
        check_batch(connection, headroom, self.bounds, now, estimate)

    async def get_batch(self, batch_id: str, provider: str = "") -> BatchRecord:
        view = self._view(provider)
        return await self._database.look(lambda connection: _found(connection, view, batches, batch_id, no_batch))

    async def placements(self, found: Iterable[BatchRecord]) -> dict[int, list[PlacementRecord]]:
        """The shards of the tenant's batches, by `seq` and in the order of their lines."""
        own = [batch.seq for batch in found if batch.seq and batch.provider == GROUPS]
        if not own:
            return {}
        query = _placements(len(own))
        values = {"tenant": self.tenant, **named("seq", own)}
        see = self._database.look if len(own) == 1 else self._database.read
        listed: dict[int, list[PlacementRecord]] = {}
        for row in await see(lambda connection: query.all(connection, **values)):
            listed.setdefault(row.batch_seq, []).append(row)
        return listed

    async def list_batches(self, *, provider: str, after: str, limit: int) -> tuple[list[BatchRecord], bool]:
        """A page, newest first, and whether more follow. Raises InvalidArgument for an unknown `after`."""
        view = self._view(provider)
        return await self._database.read(lambda c: view.page(c, batches, after=after, limit=limit))

    async def cancel_batch(self, batch_id: str, provider: str, now: int) -> BatchRecord:
        """Asks for a batch to stop. Raises FailedPrecondition where it ended otherwise (facts: 409)."""
        view = self._view(provider)
        seq = (await self.get_batch(batch_id, provider)).seq

        def work(connection: Connection) -> BatchRecord:
            batch: BatchRecord = _found(connection, view, batches, batch_id, no_batch)
            if batch.status in {Status.CANCELLING, Status.CANCELLED}:
                return batch
            if batch.status in ENDED:
                message = f"Cannot cancel a batch with status '{batch.status}'."
                raise FailedPrecondition(message, reason="BATCH_ENDED")
            query = update(batches).where(batches.c.seq == batch.seq).returning(*BATCH_COLUMNS)
            query = query.values(status=Status.CANCELLING, cancelling_at=batch.not_before(now))
            return BatchRecord(**connection.execute(query).mappings().one())

        return await self._database.write(work, batch_of(seq), urgent=True)

    def check_unread(self, connection: Connection, file_id: str) -> None:
        """Raises FailedPrecondition while a batch reads the file."""
        readers = select(batches.c.id).where(batches.c.tenant == self.tenant, IS_LIVE)
        reader = connection.scalar(readers.where(batches.c.input_file_id == file_id).limit(1))
        if reader:
            raise FailedPrecondition(
                f"File '{file_id}' is being read by batch '{reader}'. Cancel the batch or wait for its end.",
                param="file_id",
                reason="FILE_IN_USE",
            )

    def made(self, connection: Connection, once: IdempotencyKey) -> BatchRecord | None:
        """What a key made within its time; one that is older is forgotten."""
        mine = {"tenant": self.tenant, "key": once.key}
        found = REMEMBERED.one(connection, **mine)
        if found is None:
            return None
        if found["created_at"] <= min(once.created_at, self._database.expiry()) - KEY_SECONDS:
            _FORGET.one(connection, **mine)
            return None
        if found["digest"] != once.digest:
            raise AlreadyExists(REUSED, param="idempotency_key")
        batch = self._view().batch_of(connection, found["batch_seq"])
        if batch is None:  # at a place that this key may not use: the request was another
            raise AlreadyExists(REUSED, param="idempotency_key")
        return batch

    def _view(self, provider: str = "") -> View:
        return View(self.tenant, self.key, self._homes, provider)


def no_file(file_id: str) -> NotFound:
    """What is said of a file that is not there for its caller (facts 4)."""
    return NotFound(f"No such File object: {file_id}", param="id")


def no_batch(batch_id: str) -> NotFound:
    """What is said of a batch that is not there for its caller (facts 4)."""
    return NotFound(f"No batch found with id '{batch_id}'.")


def insert_file(connection: Connection, row: dict[str, Any], parts: Iterable[Part]) -> FileRecord:
    """Adds a file and the parts of its content, within the caller's transaction."""
    file: FileRecord = added(connection, files, row)
    for n, part in enumerate(parts):
        added(connection, file_parts, {"file_seq": file.seq, "n": n, **part._asdict()})
    return file


def _found(connection: Connection, view: View, table: Table, row_id: str, missing: Callable[[str], NotFound]) -> Any:
    row = view.one(connection, table, row_id)
    if row is None:
        raise missing(row_id)
    return row


@lru_cache(100)
def _placements(count: int) -> Prepared[PlacementRecord]:
    query = select(*PLACEMENT_COLUMNS).join(batches, batches.c.seq == placements.c.batch_seq)
    query = query.where(batches.c.tenant == given("tenant"), batches.c.seq.in_(names("seq", count)))
    return Prepared(query.order_by(placements.c.first_line), PlacementRecord)
