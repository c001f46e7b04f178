"""The registry's part for deployments of other providers: what they were asked to create, and what they last said.

Rows are found by (deployment, native id) and keep their owner: who registered an id first. Ended batches are final.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, delete, select, update

from batchyard.service.config.settings import Rate
from batchyard.service.domain.ids import is_id, new_batch_id, new_file_id
from batchyard.service.domain.records import ENDED, BatchRecord, FileRecord, IdempotencyKey, Status
from batchyard.service.errors import AlreadyExists, FailedPrecondition
from batchyard.service.registry import base
from batchyard.service.registry.base import Database
from batchyard.service.registry.dialects.sqlite_statements import Prepared, given, single
from batchyard.service.registry.rows import BATCH_COLUMNS, READ, added, changed
from batchyard.service.registry.schema import IS_LIVE, batches, files, idempotency_keys, intents
from batchyard.service.registry.tenant import REMEMBERED, REUSED, TenantRegistry, no_batch, no_file
from batchyard.service.registry.usage import UsageEstimate, ended

Values = Mapping[str, Any]

_NO_COLUMNS = {"source", "marked", "answered"}


class Intent(NamedTuple):
    """A batch that a deployment was asked to create, for a tenant.

    `request` has `source` (the members by which it says where its input is), `marked` (whether the batch's metadata
    carry `id`), `answered` (how the deployment said that it made the batch, where it did not say which), and columns of
    `batches` that the caller chose, or that it is reckoned at.
    """

    id: str
    tenant: str
    deployment: str
    request: dict[str, Any]
    key: str | None
    digest: str | None
    created_at: int

    @property
    def estimate(self) -> UsageEstimate:
        return UsageEstimate(self.request.get("estimated_tokens", 0), self.request.get("estimated_lines", 0))


_INTENT_COLUMNS = [intents.c[name] for name in Intent._fields]
_MAKING = Prepared(
    select(*_INTENT_COLUMNS).where(intents.c.tenant == given("tenant"), intents.c.key == given("key")), Intent
)
_DROP: Prepared[None] = Prepared(delete(intents).where(intents.c.id == given("id")), lambda: None)
_CURRENT = Prepared(select(*BATCH_COLUMNS).where(batches.c.seq == given("seq")), BatchRecord)
_ALL = select(*BATCH_COLUMNS).where(batches.c.deployment == given("deployment"), IS_LIVE)
_LIVE = Prepared(_ALL, BatchRecord)
_LIVE_OF_TENANT = Prepared(_ALL.where(batches.c.tenant == given("tenant")).order_by(batches.c.seq.desc()), BatchRecord)
_FOUND: Mapping[Table, Prepared[Any]] = {
    table: Prepared(
        select(*columns).where(table.c.deployment == given("deployment"), table.c.native_id == given("native_id")),
        record,
    )
    for table, (record, columns) in READ.items()
    if table in (batches, files)
}
_TAKEN: Mapping[Table, Prepared[Any]] = {
    table: Prepared(select(table.c.seq).where(table.c.id == given("id")), single) for table in (batches, files)
}
_IS_KEPT: Prepared[int] = Prepared(
    select(files.c.seq).where(files.c.seq == given("seq"), files.c.deleted_at.is_(None)), single
)
_LATER: Mapping[str, set[str]] = {
    Status.IN_PROGRESS: {Status.VALIDATING},
    Status.FINALIZING: {Status.VALIDATING, Status.IN_PROGRESS},
    Status.CANCELLING: {Status.VALIDATING, Status.IN_PROGRESS},
}
"""What a deployment may say for a moment of a batch that is further already, or said before and is heard later."""


class RemoteRegistry:
    """Rows of one deployment, of all tenants."""

    def __init__(self, database: Database, deployment: str, touch: Callable[[int], None]) -> None:
        """`touch` is told the `seq` of each batch whose row was written."""
        self._database = database
        self._deployment = deployment
        self._aggregate = base.deployment(deployment)
        self._touch = touch
        # By the id of each file whose deletion is under way, how many ask for it. One process has a deployment's rows,
        # by the data directory's lock, and one thread writes them; several writers would need a column of `files` for
        # this, written by the statement that checks for readers.
        self._removing: Counter[str] = Counter()

    def expiry(self) -> float:
        """The time by which what is remembered ends."""
        return self._database.expiry()

    async def begin(
        self,
        owner: TenantRegistry,
        intent: Intent,
        once: IdempotencyKey | None,
        rate: Rate | None,
        file: FileRecord | None = None,
    ) -> BatchRecord | Intent:
        """Writes down what will be asked for; or gives what the same idempotency key made, or is making.

        Raises AlreadyExists where the key stands for another request, Busy where `rate` or a limit is exceeded, and
        NotFound where `file`, the batch's input, was deleted since it was looked up, or is about to be.
        """

        def work(connection: Connection) -> BatchRecord | Intent:
            if once:
                if made := owner.made(connection, once):
                    return made
                if making := _MAKING.one(connection, tenant=owner.tenant, key=once.key):
                    if making.digest != once.digest:
                        raise AlreadyExists(REUSED, param="idempotency_key")
                    return making
            if file and (self._removing[file.id] or (file.seq and _IS_KEPT.one(connection, seq=file.seq) is None)):
                raise no_file(file.id)
            owner.check(connection, rate, intent.created_at, intent.estimate)
            added(connection, intents, intent._asdict())
            return intent

        return await self._database.write(work, base.tenant(owner.tenant))

    async def complete(self, intent: Intent, native_id: str, values: Values) -> BatchRecord:
        """Registers the batch that came of an intent, once; `values` are columns of `batches`."""

        def work(connection: Connection) -> BatchRecord:
            batch: BatchRecord | None = _found(connection, batches, self._deployment, native_id)
            if batch is None:
                row = {**intent.request, **values, "tenant": intent.tenant, "native_id": native_id}
                row = {name: value for name, value in row.items() if name not in _NO_COLUMNS}
                row |= {"deployment": self._deployment, "id": _free(connection, batches, native_id, new_batch_id)}
                batch = self._added(connection, row)
            if intent.key and batch.tenant == intent.tenant:
                self._remember(connection, intent, batch.seq)
            _DROP.one(connection, id=intent.id)
            return batch

        made = await self._database.write(work, base.tenant(intent.tenant), self._aggregate)
        self._touch(made.seq)
        return made

    async def answered(self, intent: Intent, how: str) -> Intent:
        """Writes down that the deployment said that it made the batch, though not which it is."""
        noted = intent._replace(request={**intent.request, "answered": how})
        query = update(intents).where(intents.c.id == intent.id).values(request=noted.request)
        await self._database.write(lambda connection: connection.execute(query), self._aggregate)
        return noted

    async def drop(self, intent: Intent) -> None:
        """Forgets an intent of which nothing came."""
        await self._database.write(lambda connection: _DROP.one(connection, id=intent.id), self._aggregate)

    async def under(self, owner: TenantRegistry, key: str) -> BatchRecord | Intent | None:
        """What an idempotency key of this deployment made, or may be making."""
        made = select(*BATCH_COLUMNS).join(idempotency_keys, idempotency_keys.c.batch_seq == batches.c.seq)
        made = made.where(idempotency_keys.c.tenant == owner.tenant, idempotency_keys.c.key == key)
        made = made.where(batches.c.deployment == self._deployment)
        making = select(*_INTENT_COLUMNS).where(intents.c.tenant == owner.tenant, intents.c.key == key)
        making = making.where(intents.c.deployment == self._deployment)

        def work(connection: Connection) -> BatchRecord | Intent | None:
            if batch := connection.execute(made).mappings().one_or_none():
                return BatchRecord(**batch)
            row = connection.execute(making).mappings().one_or_none()
            return Intent(**row) if row else None

        return await self._database.read(work)

    async def intents(self) -> list[Intent]:
        """What was asked for and not answered yet, oldest first."""
        query = select(*_INTENT_COLUMNS).where(intents.c.deployment == self._deployment).order_by(intents.c.created_at)
        return await self._database.read(lambda c: [Intent(**row) for row in c.execute(query).mappings()])

    async def live(self, tenant: str = "") -> list[BatchRecord]:
        """Batches that have not ended, of all tenants; or of one, newest first."""
        if tenant:
            query, values = _LIVE_OF_TENANT, {"deployment": self._deployment, "tenant": tenant}
        else:
            query, values = _LIVE, {"deployment": self._deployment}
        return await self._database.read(lambda connection: query.all(connection, **values))

    async def known(self, native_ids: Iterable[str]) -> set[str]:
        """Those of these batches that are registered."""
        query = select(batches.c.native_id).where(batches.c.deployment == self._deployment)
        query = query.where(batches.c.native_id.in_(list(native_ids)))
        return await self._database.read(lambda c: set(c.scalars(query)))

    async def observe(self, batch: BatchRecord, values: Values, results: Mapping[str, Values]) -> BatchRecord:
        """Writes what the deployment said of a batch, unless it has ended or was further already.

        `values` are columns of `batches`; `results` those of `files` by the batch's column, for result files, which
        become the batch owner's in the same commit.
        """

        def work(connection: Connection) -> BatchRecord:
            now = _CURRENT.one(connection, seq=batch.seq)
            if now is None:
                raise no_batch(batch.id)
            if now.status in ENDED:
                return now
            said = dict(values)
            if values["status"] in _LATER.get(now.status, ()):
                said = {"observed_at": values["observed_at"]}
            made = {column: self._result(connection, batch, row) for column, row in results.items()}
            found: BatchRecord = changed(connection, batches, {**said, **made}, seq=batch.seq)
            if found.status in ENDED:
                ended(self._database.headroom, found)
            return found

        of = (base.tenant(batch.tenant), self._aggregate, base.batch(batch.seq))
        seen = await self._database.write(work, *of)
        if seen != batch:
            self._touch(batch.seq)
        return seen

    async def adopt_batch(self, tenant: str, native_id: str, values: Values) -> BatchRecord:
        """Registers a batch that was made elsewhere; one that is registered keeps its owner."""

        def work(connection: Connection) -> BatchRecord:
            batch: BatchRecord | None = _found(connection, batches, self._deployment, native_id)
            if batch is None:
                row = {**values, "tenant": tenant, "deployment": self._deployment, "native_id": native_id}
                row["id"] = _free(connection, batches, native_id, new_batch_id)
                batch = self._added(connection, row)
                self._database.headroom.used(tenant, batch.key_id, "batches_in_flight", 1)
            return batch

        return await self._database.write(work, base.tenant(tenant), self._aggregate)

    async def add_file(self, tenant: str, native_id: str, values: Values, key_id: str | None = None) -> FileRecord:
        """Registers a file of the deployment; one that is registered keeps its owner, and its key."""
        row = {**values, "native_id": native_id, "key_id": key_id}
        return await self._database.write(
            lambda connection: self._file(connection, tenant, row), base.tenant(tenant), self._aggregate
        )

    async def describe(self, file: FileRecord, values: Values) -> FileRecord:
        """Writes what the deployment said of a file."""

        def work(connection: Connection) -> FileRecord:
            found: FileRecord = changed(connection, files, values, seq=file.seq)
            return found

        return await self._database.write(work, self._aggregate)

    @asynccontextmanager
    async def removing(self, owner: TenantRegistry, file: FileRecord) -> AsyncIterator[None]:
        """A context in which a file can be deleted at the deployment: no batch that reads it begins meanwhile.

        Raises FailedPrecondition where one reads it, or is being created.
        """
        reading = select(intents.c.id).where(intents.c.tenant == owner.tenant, intents.c.deployment == self._deployment)
        reading = reading.where(intents.c.request["input_file_id"].as_string() == file.id)
        reading = reading.where(intents.c.request["answered"].as_string().is_(None)).limit(1)

        def check(connection: Connection) -> None:
            owner.check_unread(connection, file.id)
            if connection.scalar(reading) is not None:
                message = f"A batch over file '{file.id}' is being created. Wait until it is listed, and for its end."
                raise FailedPrecondition(message, param="file_id", reason="FILE_IN_USE")

        self._removing[file.id] += 1
        try:
            # Behind all creations that did not know of the deletion.
            await self._database.write(check, base.tenant(owner.tenant), self._aggregate, urgent=True)
            yield
        finally:
            self._removing[file.id] -= 1
            self._removing += Counter()  # drops what nobody removes any more

    async def mark_deleted(self, file: FileRecord, now: int) -> None:
        """Notes that a file is gone at the deployment. Raises NotFound where that is noted already."""
        query = update(files).where(files.c.seq == file.seq, files.c.deleted_at.is_(None)).values(deleted_at=now)
        of = (base.tenant(file.tenant), self._aggregate)
        if not await self._database.write(lambda connection: connection.execute(query).rowcount, *of, urgent=True):
            raise no_file(file.id)

    def _added(self, connection: Connection, row: Values) -> BatchRecord:
        batch: BatchRecord = added(connection, batches, row)
        if batch.status in ENDED:
            ended(self._database.headroom, batch)
        return batch

    def _remember(self, connection: Connection, intent: Intent, batch_seq: int) -> None:
        """Keeps what an idempotency key made, unless it has made something elsewhere since."""
        if REMEMBERED.one(connection, tenant=intent.tenant, key=intent.key) is None:
            row = {name: getattr(intent, name) for name in ("tenant", "key", "digest", "created_at")}
            added(connection, idempotency_keys, {**row, "batch_seq": batch_seq})

    def _result(self, connection: Connection, batch: BatchRecord, row: Values) -> str | None:
        """The id of a result file; none where somebody else has it."""
        file = self._file(connection, batch.tenant, {**row, "key_id": batch.key_id})
        return file.id if file.tenant == batch.tenant else None

    def _file(self, connection: Connection, tenant: str, row: Values) -> FileRecord:
        found: FileRecord | None = _found(connection, files, self._deployment, row["native_id"])
        if found is None:
            whole = {**row, "tenant": tenant, "deployment": self._deployment}
            whole["id"] = _free(connection, files, row["native_id"], new_file_id)
            found = added(connection, files, whole)
        return found


def _found(connection: Connection, table: Table, deployment: str, native_id: str) -> Any:
    return _FOUND[table].one(connection, deployment=deployment, native_id=native_id)


def _free(connection: Connection, table: Table, native_id: str, new: Callable[[], str]) -> str:
    """The provider's own id, or one of ours where that is none that callers could use, or is another deployment's."""
    return native_id if is_id(native_id) and _TAKEN[table].one(connection, id=native_id) is None else new()
