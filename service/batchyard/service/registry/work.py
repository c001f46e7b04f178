"""The registry as the engine sees it: leases, chunks and the commits that end a batch.

A lease is held by an owner for an epoch. Taking it raises the epoch, and every commit here names the epoch that it
was made in: a worker that slept through its lease gets LeaseLost and changes nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from sqlalchemy import (
    Connection,
    Delete,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from batchyard.service.config.names import GROUPS
from batchyard.service.domain.names import INTERNAL
from batchyard.service.domain.records import (
    ENDED,
    BatchRecord,
    ChunkRecord,
    Counts,
    FileRecord,
    Part,
    RegistryIdentity,
    SealedChunk,
    Status,
)
from batchyard.service.errors import LeaseLost
from batchyard.service.registry import base
from batchyard.service.registry.base import CLAIMS, REGISTRY, Aggregate, Database, Work
from batchyard.service.registry.dialects.sqlite_statements import Prepared, given
from batchyard.service.registry.rows import BATCH_COLUMNS, CHUNK_COLUMNS, FILE_COLUMNS, added, changed
from batchyard.service.registry.schema import (
    IS_FREE,
    IS_LEASED,
    IS_LIVE,
    batches,
    chunks,
    file_parts,
    files,
    idempotency_keys,
    identity,
    placements,
)
from batchyard.service.registry.tenant import insert_file
from batchyard.service.registry.usage import ended

T = TypeVar("T")

_COUNTS = [field.name for field in msgspec.structs.fields(Counts)]
_SUMS: Prepared[dict[str, int]] = Prepared(
    select(*(func.coalesce(func.sum(chunks.c[name]), 0).label(name) for name in _COUNTS)).where(
        chunks.c.batch_seq == given("batch_seq")
    ),
    dict,
)
_HELD: Mapping[Table, list[Any]] = {batches: [IS_LEASED, batches.c.deployment.is_(None)], chunks: [IS_LEASED]}
_INPUT: Prepared[dict[str, Any]] = Prepared(
    select(*FILE_COLUMNS, files.c.scan).where(
        files.c.id == given("id"),
        files.c.tenant == given("tenant"),
        files.c.provider == given("provider"),
        files.c.deployment.is_(None),
        files.c.deleted_at.is_(None),
    ),
    dict,
)
_PARTS = Prepared(
    select(file_parts.c.key, file_parts.c.size, file_parts.c.sums)
    .where(file_parts.c.file_seq == given("seq"))
    .order_by(file_parts.c.n),
    Part,
)
_CHUNKS = Prepared(
    select(*CHUNK_COLUMNS).where(chunks.c.batch_seq == given("batch_seq")).order_by(chunks.c.start), ChunkRecord
)
_NO_CHUNKS: Prepared[dict[str, Any]] = Prepared(delete(chunks).where(chunks.c.batch_seq == given("batch_seq")), dict)
_REREAD = Prepared(
    select(*BATCH_COLUMNS).where(batches.c.seq == given("seq"), batches.c.epoch == given("epoch")), BatchRecord
)


def _taken(table: Table) -> dict[str, Any]:
    """What a lease writes."""
    return {"lease_owner": given("owner"), "lease_until": given("until"), "epoch": table.c.epoch + 1}


_CHUNK_CLAIM = Prepared(
    update(chunks)
    .values(_taken(chunks))
    .where(
        chunks.c.batch_seq == given("batch_seq"),
        chunks.c.n == given("n"),
        chunks.c.sealed == 0,
        or_(chunks.c.lease_until <= given("now"), chunks.c.lease_owner == given("owner")),
    )
    .returning(*CHUNK_COLUMNS),
    ChunkRecord,
)


class Enqueued(NamedTuple):
    """What a batch adds to the running batches of its tenant and a `name`, and the most that there may be.

    `kind`: estimated prompt tokens by model, or requests by endpoint.
    """

    kind: Literal["tokens", "requests"]
    name: str | None
    wanted: int
    most: int


class NoRoom(Exception):
    """What a batch adds would exceed a limit, which is `enqueued`."""

    def __init__(self, enqueued: Enqueued) -> None:
        super().__init__(enqueued.kind)
        self.enqueued = enqueued


class WorkRegistry:
    """Everything of every tenant that the background work needs; no call of a caller reads through it."""

    def __init__(
        self,
        database: Database,
        owner: str,
        touch: Callable[[int], None] = lambda _: None,
        idle: Iterable[str] = (),
    ) -> None:
        """`touch` is told the `seq` of each batch whose row was written; batches of the providers `idle` just wait."""
        self._database = database
        self._owner = owner
        self._touch = touch
        self._idle = tuple(idle)

    async def identity(self, new: str) -> RegistryIdentity:
        """Which registry this is: by the id that it was given when it was first opened, `new` where that is now."""

        def work(connection: Connection) -> RegistryIdentity:
            found = connection.execute(select(identity)).mappings().first()
            if found is None:
                connection.execute(insert(identity).values(id=new))
            return RegistryIdentity(**found) if found else RegistryIdentity(new)

        return await self._database.write(work, REGISTRY)

    async def advance(self, generation: int, newest_at: int) -> None:
        """Notes the generation of the registry, and the newest time that is believed."""
        await self._execute(update(identity).values(generation=generation, newest_at=newest_at), REGISTRY)

    async def void_leases(self) -> None:
        """Ends every lease. Only for a start that holds the data directory's lock: earlier owners are dead."""
        for table, held in _HELD.items():
            await self._execute(update(table).where(*held).values(lease_until=0), CLAIMS, urgent=True)

    async def claim_batches(self, now: float, until: float, most: int = 1) -> list[BatchRecord]:
        """Leases live batches that nobody holds; ours stay ours until released, whatever the clock says."""
        claiming = _claiming(self._idle)
        values = {"now": now, "until": until, "owner": self._owner}

        def work(connection: Connection) -> list[BatchRecord]:
            found: list[BatchRecord] = []
            while len(found) < most and (batch := claiming.one(connection, **values)):
                found.append(batch)
            return found

        return await self._database.write(work, CLAIMS)

    async def claim_chunk(self, chunk: ChunkRecord, now: float, until: float) -> ChunkRecord:
        """Leases an open chunk, in a new epoch. Raises LeaseLost where another owner holds it or sealed it."""
        values = {"batch_seq": chunk.batch_seq, "n": chunk.n, "now": now, "until": until, "owner": self._owner}

        def work(connection: Connection) -> ChunkRecord:
            found = _CHUNK_CLAIM.one(connection, **values)
            if found is None:
                raise LeaseLost("the chunk is another worker's")
            return found

        return await self._database.write(work, base.batch(chunk.batch_seq))

    async def extend(self, until: float) -> None:
        """Extends all leases of this owner."""

        def work(connection: Connection) -> None:
            for table, held in _HELD.items():
                mine = table.c.lease_owner == self._owner
                connection.execute(update(table).where(mine, *held).values(lease_until=until))

        await self._database.write(work, CLAIMS)

    async def give_back(self, carried: Collection[tuple[int, int]]) -> list[str]:
        """Ends this owner's leases of batches, and of their chunks, but for those `carried`: `seq` and epoch of each.

        Returns the ids of the batches, which anybody may claim at once.
        """
        seqs = {seq for seq, _ in carried}

        def work(connection: Connection) -> list[str]:
            held = connection.execute(_held(batches, self._owner, "id", "seq", "epoch")).all()
            stranded = {one.seq: one.id for one in held if (one.seq, one.epoch) not in carried}
            parts = connection.scalars(_held(chunks, self._owner, "batch_seq").distinct()).all()
            mine = chunks.c.lease_owner == self._owner
            for seq in stranded:
                connection.execute(update(batches).where(batches.c.seq == seq).values(lease_until=0))
            for seq in {*parts} - seqs:
                connection.execute(update(chunks).where(chunks.c.batch_seq == seq, mine).values(lease_until=0))
            return [*stranded.values()]

        return await self._database.write(work, CLAIMS)

    async def release(self, batch: BatchRecord) -> None:
        """Gives a batch back, for anybody to claim at once."""
        query = update(batches).where(batches.c.seq == batch.seq, batches.c.epoch == batch.epoch)
        await self._execute(query.values(lease_until=0), base.batch(batch.seq))

    async def reread(self, batch: BatchRecord) -> BatchRecord:
        """The batch as it is now. Raises LeaseLost where the lease is not ours any more."""
        found = await self._database.look(lambda c: _REREAD.one(c, seq=batch.seq, epoch=batch.epoch))
        if found is None:
            raise LeaseLost("the batch is another worker's")
        return found

    async def input_of(self, batch: BatchRecord) -> tuple[FileRecord, dict[str, Any] | None, list[Part]] | None:
        """The batch's input file with its scan and its parts, or None where its tenant has none such there."""
        values = {"tenant": batch.tenant, "provider": batch.provider, "id": batch.input_file_id}

        def work(connection: Connection) -> tuple[FileRecord, dict[str, Any] | None, list[Part]] | None:
            row = _INPUT.one(connection, **values)
            if row is None:
                return None
            scan = row.pop("scan")
            return FileRecord(**row), scan, _PARTS.all(connection, seq=row["seq"])

        return await self._database.read(work)

    async def update_batch(self, batch: BatchRecord, **values: Any) -> BatchRecord:
        """Commits a step of the batch's life, if its status is still the one that `batch` has. Raises LeaseLost."""
        return await self._written(batch.seq, lambda connection: self._step(connection, batch, values))

    async def show_waiting(self, batch: BatchRecord, why: str | None) -> None:
        """Shows why none of the batch's lines runs now; None: they do. Nothing is shown of a batch that moved on."""
        query = update(batches).where(batches.c.seq == batch.seq, batches.c.epoch == batch.epoch)
        query = query.where(batches.c.status == batch.status).values(waiting=why)
        await self._written(batch.seq, lambda connection: connection.execute(query))

    async def plan(
        self, batch: BatchRecord, planned: Sequence[dict[str, Any]], *, bounds: Iterable[Enqueued] = (), **values: Any
    ) -> BatchRecord:
        """Adds the batch's chunks, once, and commits a step of its life with them. Raises NoRoom for `bounds`."""

        def work(connection: Connection) -> BatchRecord:
            for bound in bounds:
                if _running(connection, batch.tenant, bound) + bound.wanted > bound.most:
                    raise NoRoom(bound)
            updated = self._step(connection, batch, values)
            for chunk in planned:
                added(connection, chunks, {"batch_seq": batch.seq, **chunk})
            return updated

        return await self._written(batch.seq, work, base.tenant(batch.tenant))

    async def chunks(self, batch: BatchRecord) -> list[ChunkRecord]:
        """In the order of their lines."""
        return await self._database.read(lambda connection: _CHUNKS.all(connection, batch_seq=batch.seq))

    async def publish(self, chunk: ChunkRecord, counts: Counts) -> None:
        """Shows a running chunk's durable progress in the counts of its batch."""

        def work(connection: Connection) -> None:
            if changed(connection, chunks, msgspec.structs.asdict(counts), **_open(chunk)):
                _sum_counts(connection, chunk.batch_seq)

        await self._written(chunk.batch_seq, work)

    async def seal(self, chunk: ChunkRecord, result: SealedChunk) -> None:
        """Commits a chunk's results. Raises LeaseLost where the chunk has another epoch or is sealed."""
        values = msgspec.structs.asdict(result.counts) | {"sealed": 1, "lease_until": 0}
        for name, part in (("output", result.output), ("error", result.error)):
            if part:
                values |= {f"{name}_key": part.key, f"{name}_size": part.size, f"{name}_sums": part.sums}

        def work(connection: Connection) -> None:
            if not changed(connection, chunks, values, **_open(chunk)):
                raise LeaseLost("the chunk is another worker's")
            _sum_counts(connection, chunk.batch_seq)

        await self._written(chunk.batch_seq, work)

    async def finish(
        self, batch: BatchRecord, results: Iterable[tuple[str, dict[str, Any], Sequence[Part]]], **values: Any
    ) -> BatchRecord:
        """Ends a batch: registers its result files, each (column, values of `files`, parts), and drops its chunks."""

        owned = {"tenant": batch.tenant, "key_id": batch.key_id}

        def work(connection: Connection) -> BatchRecord:
            made = {}
            for column, row, parts in results:
                made[column] = insert_file(connection, row | owned, parts).id
            ended = self._step(connection, batch, {**values, **made, "lease_until": 0, "waiting": None})
            _NO_CHUNKS.one(connection, batch_seq=batch.seq)
            if batch.provider == GROUPS:
                left = update(placements).where(placements.c.batch_seq == batch.seq, placements.c.open == 1)
                connection.execute(left.values(open=0))
            return ended

        return await self._written(batch.seq, work, base.PLACEMENTS)

    async def known_keys(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that a file or a sealed chunk refers to."""
        columns = (file_parts.c.key, chunks.c.output_key, chunks.c.error_key)
        queries = [select(column).where(column.in_(bindparam("keys", expanding=True))) for column in columns]
        values = {"keys": list(keys)}
        return await self._database.read(lambda c: {key for query in queries for key in c.scalars(query, values)})

    async def standing(self) -> tuple[dict[str, int], dict[str, int], int | None]:
        """How many batches have each status, how many in progress each provider has, and when the oldest was created
        whose lines have not started.
        """
        counts = select(batches.c.status, func.count()).where(batches.c.tenant != INTERNAL)
        oldest = select(func.min(batches.c.created_at)).where(batches.c.status == Status.VALIDATING)
        oldest = oldest.where(batches.c.tenant != INTERNAL)
        counted = counts.group_by(batches.c.status)
        running = select(batches.c.provider, func.count()).where(batches.c.tenant != INTERNAL)
        running = running.where(batches.c.status == Status.IN_PROGRESS).group_by(batches.c.provider)
        return await self._database.read(
            lambda c: (dict(c.execute(counted).all()), dict(c.execute(running).all()), c.scalar(oldest))
        )

    async def known_batches(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are batches."""
        query = select(batches.c.id).where(batches.c.id.in_(bindparam("ids", expanding=True)))
        return await self._database.read(lambda connection: set(connection.scalars(query, {"ids": list(ids)})))

    async def ended_batches(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are batches which have ended."""
        query = select(batches.c.id).where(
            batches.c.id.in_(bindparam("ids", expanding=True)), text(f"NOT ({IS_LIVE.text})")
        )
        return await self._database.read(lambda connection: set(connection.scalars(query, {"ids": list(ids)})))

    async def sealed_chunks(self) -> set[tuple[str, int]]:
        """Batch id and number of every chunk that is sealed, of batches that have not ended."""
        query = select(batches.c.id, chunks.c.n).join(batches, batches.c.seq == chunks.c.batch_seq)
        return await self._database.read(lambda c: {(i, n) for i, n in c.execute(query.where(chunks.c.sealed == 1))})

    async def expire_files(self, now: int, most: int = 500) -> int:
        """Marks files as deleted whose time has come, except those that a live batch reads."""
        reader = select(batches.c.seq).where(
            batches.c.tenant == files.c.tenant,
            batches.c.input_file_id == files.c.id,
            IS_LIVE,
        )
        due = select(files.c.seq).where(files.c.deleted_at.is_(None), files.c.expires_at <= now, ~reader.exists())
        due = due.where(files.c.tenant != INTERNAL)  # what shards have at deployments is the cleaner's
        query = update(files).where(files.c.seq.in_(due.limit(most))).values(deleted_at=now)
        return await self._execute(query, REGISTRY, urgent=True)

    async def deleted_parts(self, most: int = 500) -> list[Part]:
        """Objects that only deleted files refer to."""
        deleted = select(files.c.seq).where(files.c.deleted_at.is_not(None))
        query = select(file_parts.c.key, file_parts.c.size).where(file_parts.c.file_seq.in_(deleted)).limit(most)
        return await self._database.read(lambda c: [Part(key, size) for key, size in c.execute(query)])

    async def forget_parts(self, parts: Iterable[Part]) -> None:
        """Drops the references to objects that are gone."""
        keys = [part.key for part in parts]
        await self._execute(delete(file_parts).where(file_parts.c.key.in_(keys)), REGISTRY, urgent=True)

    async def forget_files(self, before: int) -> int:
        """Drops the rows of files that were deleted before a time; until then they serve as cursors of lists."""
        held = select(file_parts.c.n).where(file_parts.c.file_seq == files.c.seq).exists()
        return await self._execute(delete(files).where(files.c.deleted_at < before, ~held), REGISTRY)

    async def forget_keys(self, before: int) -> int:
        """Drops idempotency keys that were first used before a time."""
        return await self._execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < before), REGISTRY)

    async def _written(self, seq: int, work: Work[T], *more: Aggregate) -> T:
        """What `work` returns, once committed and told. It changes the batch, and `more`."""
        found = await self._database.write(work, base.batch(seq), *more)
        self._touch(seq)
        return found

    def _step(self, connection: Connection, batch: BatchRecord, values: dict[str, Any]) -> BatchRecord:
        found: BatchRecord | None = changed(
            connection, batches, values, seq=batch.seq, epoch=batch.epoch, status=batch.status
        )
        if found is None:
            raise LeaseLost("the batch moved on")
        if found.status in ENDED:
            ended(self._database.headroom, found)
        return found

    async def _execute(self, query: Update | Delete, of: Aggregate, *, urgent: bool = False) -> int:
        """How many rows it changed."""
        return await self._database.write(lambda connection: connection.execute(query).rowcount, of, urgent=urgent)


def _open(chunk: ChunkRecord) -> dict[str, int]:
    """By which a chunk is found while it is its worker's."""
    return {"batch_seq": chunk.batch_seq, "n": chunk.n, "epoch": chunk.epoch, "sealed": 0}


def _running(connection: Connection, tenant: str, bound: Enqueued) -> int:
    """What all batches hold that were planned and have not ended."""
    if bound.kind == "tokens":
        held = select(func.sum(files.c.stats["estimated_tokens"].as_integer())).where(batches.c.model == bound.name)
        held = held.join(batches, (batches.c.input_file_id == files.c.id) & (batches.c.tenant == files.c.tenant))
        held = held.where(files.c.deployment.is_(None))
    else:
        held = select(func.sum(batches.c.total)).where(batches.c.endpoint == bound.name)
    held = held.where(batches.c.tenant == tenant, text(f"batches.{IS_LIVE.text}"), batches.c.total > 0)
    return int(connection.scalar(held) or 0)


def _held(table: Table, owner: str, *names: str) -> Select[Any]:
    """Of the rows that an owner has leased, some columns."""
    return select(*(table.c[name] for name in names)).where(*_HELD[table], table.c.lease_owner == owner)


def _sum_counts(connection: Connection, batch_seq: int) -> None:
    changed(connection, batches, _SUMS.one(connection, batch_seq=batch_seq) or {}, seq=batch_seq)


@lru_cache(8)
def _claiming(idle: tuple[str, ...]) -> Prepared[BatchRecord]:
    """Takes one whose owner's lease is over, or else one that nobody has had."""
    ours = [batches.c.deployment.is_(None)] + ([batches.c.provider.not_in(idle)] if idle else [])
    lapsed = select(func.min(batches.c.seq)).where(IS_LEASED, batches.c.lease_until <= given("now"), *ours)
    lapsed = lapsed.where(IS_LIVE, batches.c.lease_owner != given("owner"))
    free = select(batches.c.seq).where(IS_FREE, *ours).order_by(batches.c.seq).limit(1)
    oldest = func.coalesce(lapsed.scalar_subquery(), free.scalar_subquery())
    query = update(batches).values(_taken(batches)).where(batches.c.seq == oldest).returning(*BATCH_COLUMNS)
    return Prepared(query, BatchRecord)
