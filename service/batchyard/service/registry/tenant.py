"""The registry as one tenant sees it: every query here carries the tenant, and nothing else reads for a caller."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Select, Table, delete, insert, or_, select, update

from batchyard.service.errors import AlreadyExists, Busy, FailedPrecondition, InvalidArgument, NotFound
from batchyard.service.filestore import Part
from batchyard.service.keys.records import KeyRecord
from batchyard.service.quotas import Bound
from batchyard.service.registry.database import Database
from batchyard.service.registry.records import ENDED, BatchRecord, FileRecord, PlacementRecord, Status
from batchyard.service.registry.schema import batches, file_parts, files, idempotency_keys, placements
from batchyard.service.registry.usage import Reckoned, check_batch, stored_bytes
from batchyard.service.settings import Rate

FILE_COLUMNS = [files.c[field.name] for field in msgspec.structs.fields(FileRecord)]
BATCH_COLUMNS = [batches.c[field.name] for field in msgspec.structs.fields(BatchRecord)]
PLACEMENT_COLUMNS = [placements.c[field.name] for field in msgspec.structs.fields(PlacementRecord)]


KEY_SECONDS = 86_400  # how long an idempotency key is remembered
REUSED = "This idempotency key was used for another request in the last 24 hours."
INTERNAL = ":groups"
"""The tenant of what the service itself makes at deployments: no caller's name can be that, and no rate bounds it."""


class Once(NamedTuple):
    """A caller's idempotency key, the digest of its request, and the time, in Unix seconds."""

    key: str
    digest: str
    created_at: int


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
        return await self._database.write(lambda connection: insert_file(connection, row, parts))

    async def check_uploads(self, rate: Rate | None, now: int, running: int) -> None:
        """Raises Busy where the tenant has uploaded its share of files, those that are still coming included."""
        if rate and self.tenant != INTERNAL:
            uploads = select(files.c.created_at).where(files.c.purpose != "batch_output").order_by(files.c.seq.desc())
            await self._database.read(
                lambda connection: check_rate(connection, uploads, rate, self.tenant, now, running)
            )

    async def stored(self, bounds: Sequence[Bound]) -> list[int]:
        """Bytes that each of these has stored."""
        return await self._database.read(lambda connection: [stored_bytes(connection, bound) for bound in bounds])

    async def get_file(self, file_id: str, provider: str = "") -> FileRecord:
        return await self._database.read(lambda connection: self._file(connection, file_id, provider))

    async def parts(self, file: FileRecord) -> list[Part]:
        """The file's content, in order."""
        query = select(file_parts.c.key, file_parts.c.size).join(files, files.c.seq == file_parts.c.file_seq)
        query = query.where(files.c.tenant == self.tenant, files.c.seq == file.seq).order_by(file_parts.c.n)
        return await self._database.read(lambda c: [Part(key, size) for key, size in c.execute(query)])

    async def list_files(
        self, *, provider: str, purpose: str, after: str, limit: int, ascending: bool
    ) -> tuple[list[FileRecord], bool]:
        """A page in the order of creation, and whether more follow. Raises InvalidArgument for an unknown `after`."""
        query = self._of(files, FILE_COLUMNS, provider).where(files.c.deleted_at.is_(None))
        if purpose:
            query = query.where(files.c.purpose == purpose)
        rows, more = await self._page(files, query, after, limit, ascending)
        return [FileRecord(**row) for row in rows], more

    async def delete_file(self, file_id: str, provider: str, now: int) -> FileRecord:
        """Marks a file as deleted; its bytes are the caller's to remove. Raises FailedPrecondition while it is read."""

        def work(connection: Connection) -> FileRecord:
            file = self._file(connection, file_id, provider)
            self._check_unread(connection, file_id)
            connection.execute(update(files).where(files.c.seq == file.seq).values(deleted_at=now))
            return file

        return await self._database.write(work, urgent=True)

    async def check_unread(self, file: FileRecord) -> None:
        """Raises FailedPrecondition while a batch reads the file."""
        await self._database.read(lambda connection: self._check_unread(connection, file.id))

    async def add_batch(
        self,
        values: dict[str, Any],
        once: Once | None = None,
        rate: Rate | None = None,
        reckoned: Reckoned = Reckoned(0, 0),  # noqa: B008 - never changed
    ) -> BatchRecord:
        """Registers a batch. `values` are columns of `batches`. Raises Busy where `rate` or a limit is exceeded.

        With `once`, a repeat gets the batch that the first one made; another request under its key AlreadyExists.
        """
        row = {**values, **reckoned.columns, "tenant": self.tenant, "key_id": self.key_id}
        query = insert(batches).values(row).returning(*BATCH_COLUMNS)
        newest = select(batches.c.created_at).order_by(batches.c.seq.desc())

        def work(connection: Connection) -> BatchRecord:
            if once and (made := self.made(connection, once)):
                return made
            if rate:
                check_rate(connection, newest, rate, self.tenant, values["created_at"])
            check_batch(connection, self.bounds, values["created_at"], reckoned)
            batch = BatchRecord(**connection.execute(query).mappings().one())
            if once:
                row = {"tenant": self.tenant, "batch_seq": batch.seq, **once._asdict()}
                connection.execute(insert(idempotency_keys).values(row))
            return batch

        return await self._database.write(work)

    async def get_batch(self, batch_id: str, provider: str = "") -> BatchRecord:
        return await self._database.read(lambda connection: self._batch(connection, batch_id, provider))

    async def placements(self, found: Iterable[BatchRecord]) -> dict[int, list[PlacementRecord]]:
        """The shards of the tenant's batches, by `seq` and in the order of their lines."""
        own = [batch.seq for batch in found if batch.seq and batch.deployment is None]
        if not own:
            return {}
        query = select(*PLACEMENT_COLUMNS).join(batches, batches.c.seq == placements.c.batch_seq)
        query = query.where(batches.c.tenant == self.tenant, batches.c.seq.in_(own))
        query = query.order_by(placements.c.first_line)
        rows = await self._database.read(lambda c: [PlacementRecord(**row) for row in c.execute(query).mappings()])
        listed: dict[int, list[PlacementRecord]] = {}
        for row in rows:
            listed.setdefault(row.batch_seq, []).append(row)
        return listed

    async def list_batches(self, *, provider: str, after: str, limit: int) -> tuple[list[BatchRecord], bool]:
        """A page, newest first, and whether more follow. Raises InvalidArgument for an unknown `after`."""
        query = self._of(batches, BATCH_COLUMNS, provider)
        rows, more = await self._page(batches, query, after, limit, ascending=False)
        return [BatchRecord(**row) for row in rows], more

    async def cancel_batch(self, batch_id: str, provider: str, now: int) -> BatchRecord:
        """Asks for a batch to stop. Raises FailedPrecondition where it ended otherwise (facts: 409)."""

        def work(connection: Connection) -> BatchRecord:
            batch = self._batch(connection, batch_id, provider)
            if batch.status in {Status.CANCELLING, Status.CANCELLED}:
                return batch
            if batch.status in ENDED:
                message = f"Cannot cancel a batch with status '{batch.status}'."
                raise FailedPrecondition(message, reason="BATCH_ENDED")
            query = update(batches).where(batches.c.seq == batch.seq).returning(*BATCH_COLUMNS)
            query = query.values(status=Status.CANCELLING, cancelling_at=batch.not_before(now))
            return BatchRecord(**connection.execute(query).mappings().one())

        return await self._database.write(work, urgent=True)

    def _check_unread(self, connection: Connection, file_id: str) -> None:
        readers = select(batches.c.id).where(batches.c.tenant == self.tenant, batches.c.status.not_in(ENDED))
        reader = connection.scalar(readers.where(batches.c.input_file_id == file_id).limit(1))
        if reader:
            raise FailedPrecondition(
                f"File '{file_id}' is being read by batch '{reader}'. Cancel the batch or wait for its end.",
                param="file_id",
                reason="FILE_IN_USE",
            )

    def made(self, connection: Connection, once: Once) -> BatchRecord | None:
        """What a key made within its time; one that is older is forgotten."""
        mine = (idempotency_keys.c.tenant == self.tenant, idempotency_keys.c.key == once.key)
        found = connection.execute(select(idempotency_keys).where(*mine)).one_or_none()
        if found is None:
            return None
        if found.created_at <= once.created_at - KEY_SECONDS:
            connection.execute(delete(idempotency_keys).where(*mine))
            return None
        if found.digest != once.digest:
            raise AlreadyExists(REUSED, param="idempotency_key")
        query = self._of(batches, BATCH_COLUMNS, "").where(batches.c.seq == found.batch_seq)
        row = connection.execute(query).mappings().one_or_none()
        if row is None:  # at a place that this key may not use: the request was another
            raise AlreadyExists(REUSED, param="idempotency_key")
        return BatchRecord(**row)

    def _of(self, table: Table, columns: Iterable[Any], provider: str) -> Select[Any]:
        query = select(*columns).where(table.c.tenant == self.tenant)
        if self.key and self.key.providers:
            allowed = self.key.providers
            homes = {self._homes[name] for name in allowed if name in self._homes}
            failed = table.c.deployment.is_(None) & table.c.provider.in_(homes)
            query = query.where(table.c.provider.in_(allowed) | table.c.deployment.in_(allowed) | failed)
        return query.where(or_(table.c.provider == provider, table.c.deployment == provider)) if provider else query

    def _file(self, connection: Connection, file_id: str, provider: str) -> FileRecord:
        query = self._of(files, FILE_COLUMNS, provider).where(files.c.id == file_id, files.c.deleted_at.is_(None))
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise no_file(file_id)
        return FileRecord(**row)

    def _batch(self, connection: Connection, batch_id: str, provider: str) -> BatchRecord:
        query = self._of(batches, BATCH_COLUMNS, provider).where(batches.c.id == batch_id)
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise no_batch(batch_id)
        return BatchRecord(**row)

    async def _page(
        self, table: Table, query: Select[Any], after: str, limit: int, ascending: bool
    ) -> tuple[Sequence[Any], bool]:
        def work(connection: Connection) -> tuple[Sequence[Any], bool]:
            page = query.order_by(table.c.seq.asc() if ascending else table.c.seq.desc()).limit(limit + 1)
            if after:
                seq = connection.scalar(self._of(table, [table.c.seq], "").where(table.c.id == after))
                if seq is None:
                    raise InvalidArgument(f"Invalid 'after': there is no '{after}'.", param="after")
                page = page.where(table.c.seq > seq if ascending else table.c.seq < seq)
            rows = connection.execute(page).mappings().all()
            return rows[:limit], len(rows) > limit

        return await self._database.read(work)


def no_file(file_id: str) -> NotFound:
    """What is said of a file that is not there for its caller (facts 4)."""
    return NotFound(f"No such File object: {file_id}", param="id")


def no_batch(batch_id: str) -> NotFound:
    """What is said of a batch that is not there for its caller (facts 4)."""
    return NotFound(f"No batch found with id '{batch_id}'.")


def check_rate(
    connection: Connection, newest: Select[Any], rate: Rate, tenant: str, now: int, running: int = 0
) -> None:
    """Raises Busy where a tenant has too many rows; `newest` selects when they were created, the newest first.

    `running` are to come. Rows from before the clock was put back, which seem to lie ahead, don't count.
    """
    (column,) = newest.selected_columns
    mine = newest.where(column.table.c.tenant == tenant, column <= now).limit(1)
    oldest = connection.scalar(mine.offset(rate.most - 1 - running)) if running < rate.most else now
    if oldest is not None and oldest > now - rate.seconds:
        raise Busy(
            f"Rate limit reached: at most {rate.most} in {rate.seconds} seconds. Please try again later.",
            retry_after=min(oldest + rate.seconds - now, rate.seconds),
            code="rate_limit_exceeded",
        )


def insert_file(connection: Connection, row: dict[str, Any], parts: Iterable[Part]) -> FileRecord:
    """Adds a file and the parts of its content, within the caller's transaction."""
    query = insert(files).values(**row).returning(*FILE_COLUMNS)
    file = FileRecord(**connection.execute(query).mappings().one())
    rows = [{"file_seq": file.seq, "n": n, "key": part.key, "size": part.size} for n, part in enumerate(parts)]
    if rows:
        connection.execute(insert(file_parts), rows)
    return file
