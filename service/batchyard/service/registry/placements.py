"""The registry's part for model groups: which lines of a batch are at which member, and what is open there.

What belongs to a batch is written in its lease's epoch and before its end, or not at all (LeaseLost); what begins work
at a deployment, before it is cancelled too.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from batchyard.service.domain.names import INTERNAL
from batchyard.service.domain.records import ENDED, LIVE, BatchRecord, FileRecord, PlacementRecord, Status
from batchyard.service.errors import LeaseLost
from batchyard.service.registry import base
from batchyard.service.registry.base import PLACEMENTS, Database
from batchyard.service.registry.rows import BATCH_COLUMNS, FILE_COLUMNS, PLACEMENT_COLUMNS
from batchyard.service.registry.schema import batches, chunks, files, placements

_MOST = 200
_BEGINNING = frozenset({Status.VALIDATING, Status.IN_PROGRESS})
"""In which a batch may begin work that costs something."""


class Open(NamedTuple):
    """What is open for a model at a deployment: shards, and the estimated prompt tokens of their lines."""

    shards: int = 0
    tokens: int = 0


class NewPlacement(NamedTuple):
    """A shard that is to be placed: columns of `chunks` and of `placements`, beside those that say which it is."""

    chunk: Mapping[str, Any]
    placement: Mapping[str, Any]


Standing = Mapping[tuple[str, str], Open]
"""What is open, by deployment and model: members of several groups share what a deployment allows."""
Decide = Callable[[Standing], NewPlacement | str]
"""Given what is open: what is placed now, or why nothing is."""


class Placements:
    """Shards of all batches of all tenants."""

    def __init__(self, database: Database, touch: Callable[[int], None]) -> None:
        """`touch` is told the `seq` of each batch whose placements changed."""
        self._database = database
        self._touch = touch

    async def place(self, batch: BatchRecord, decide: Decide) -> PlacementRecord | str:
        """Writes down what `decide` chooses, or why it didn't: nobody else places meanwhile.

        Raises LeaseLost where the batch is cancelled, too.
        """

        def work(connection: Connection) -> PlacementRecord | str:
            check_lease(connection, batch, among=_BEGINNING)
            wanted = decide(_standing(connection))
            waiting = wanted if isinstance(wanted, str) else None
            connection.execute(update(batches).where(batches.c.seq == batch.seq).values(waiting=waiting))
            return wanted if isinstance(wanted, str) else _added(connection, batch, wanted)

        placed = await self._database.write(work, PLACEMENTS, base.batch(batch.seq))
        self._touch(batch.seq)
        return placed

    async def of(self, batch: BatchRecord) -> list[PlacementRecord]:
        query = select(*PLACEMENT_COLUMNS).where(placements.c.batch_seq == batch.seq).order_by(placements.c.first_line)
        return await self._database.read(lambda c: [PlacementRecord(**row) for row in c.execute(query).mappings()])

    async def update(self, batch: BatchRecord, placed: PlacementRecord, **values: Any) -> PlacementRecord:
        """Writes what became of a shard."""
        return await self._updated(batch, placed, LIVE, values)

    async def begin_asking(self, batch: BatchRecord, placed: PlacementRecord) -> PlacementRecord:
        """Writes down that a deployment is asked to run a shard. Raises LeaseLost where the batch is cancelled, too."""
        return await self._updated(batch, placed, _BEGINNING, {"asked": 1})

    async def _updated(
        self, batch: BatchRecord, placed: PlacementRecord, among: Collection[str], values: Mapping[str, Any]
    ) -> PlacementRecord:
        query = update(placements).where(_is(placed)).values(**values).returning(*PLACEMENT_COLUMNS)

        def work(connection: Connection) -> PlacementRecord:
            check_lease(connection, batch, among=among)
            return PlacementRecord(**connection.execute(query).mappings().one())

        found = await self._database.write(work, PLACEMENTS, base.batch(batch.seq))
        self._touch(batch.seq)
        return found

    async def take(self, batch: BatchRecord, chunk: Mapping[str, Any]) -> None:
        """Adds a chunk of lines that go to no member. `chunk` are columns of `chunks`."""

        def work(connection: Connection) -> None:
            check_lease(connection, batch)
            connection.execute(insert(chunks).values(**_next(connection, batch, chunk), **chunk))

        await self._database.write(work, PLACEMENTS, base.batch(batch.seq))

    async def dissolve(self, batch: BatchRecord, n: int) -> None:
        """Forgets a shard of which nothing came: its lines are to be placed again."""

        def work(connection: Connection) -> None:
            check_lease(connection, batch)
            for table in (placements, chunks):
                connection.execute(delete(table).where(table.c.batch_seq == batch.seq, table.c.n == n))

        await self._database.write(work, PLACEMENTS, base.batch(batch.seq))
        self._touch(batch.seq)

    async def standing(self) -> Standing:
        return await self._database.read(_standing)

    async def unused_inputs(self, deployment: str, before: int) -> list[FileRecord]:
        """Inputs at a deployment that no open shard reads, up to a number; those that none ever did are from before."""
        reader = select(placements.c.n).where(placements.c.file_id == files.c.id)
        done = reader.exists() & ~reader.where(placements.c.open == 1).exists()
        stray = ~reader.exists() & (files.c.observed_at < before)
        query = select(*FILE_COLUMNS).where(files.c.tenant == INTERNAL, files.c.deleted_at.is_(None))
        query = query.where(files.c.purpose == "batch", files.c.deployment == deployment, done | stray).limit(_MOST)
        return await self._database.read(lambda c: [FileRecord(**row) for row in c.execute(query).mappings()])

    async def abandoned(self, deployment: str) -> list[BatchRecord]:
        """Batches at a deployment that still run, though nobody waits for them any more, up to a number."""
        wanted = select(placements.c.n).where(placements.c.file_id == batches.c.input_file_id, placements.c.open == 1)
        query = select(*BATCH_COLUMNS).where(batches.c.tenant == INTERNAL, ~wanted.exists())
        query = query.where(batches.c.status.not_in([*ENDED, Status.CANCELLING]))
        query = query.where(batches.c.deployment == deployment).limit(_MOST)
        return await self._database.read(lambda c: [BatchRecord(**row) for row in c.execute(query).mappings()])

    async def strays(self, deployment: str, named: Mapping[str, str]) -> set[str]:
        """Those of a deployment's files that are not registered; `named` has the batch in each one's name.

        Files of batches that are not ours are another service's.
        """
        known = select(files.c.native_id).where(files.c.deployment == deployment, files.c.native_id.in_([*named]))
        ours = select(batches.c.id).where(batches.c.id.in_({*named.values()}), batches.c.deployment.is_(None))

        def work(connection: Connection) -> set[str]:
            registered, mine = set(connection.scalars(known)), set(connection.scalars(ours))
            return {file_id for file_id, batch_id in named.items() if batch_id in mine} - registered

        return await self._database.read(work)

    async def forget(self, now: int) -> int:
        """Drops our rows of shards whose batch has ended, up to a number; returns how many."""
        needed = select(placements.c.file_id).join(batches, batches.c.seq == placements.c.batch_seq)
        needed = needed.where(batches.c.status.in_(LIVE), placements.c.file_id.is_not(None))
        mine = batches.alias()
        done = (mine.c.tenant == INTERNAL) & mine.c.status.in_(ENDED) & mine.c.input_file_id.not_in(needed)

        def work(connection: Connection) -> int:
            named = select(mine.c.seq, mine.c.output_file_id, mine.c.error_file_id).where(done).limit(_MOST)
            found = connection.execute(named).all()
            results = [file_id for _, *both in found for file_id in both if file_id]
            mark = update(files).where(files.c.tenant == INTERNAL, files.c.id.in_(results))
            connection.execute(mark.values(deleted_at=now))
            connection.execute(delete(batches).where(batches.c.seq.in_([seq for seq, *_ in found])))
            return len(found)

        return await self._database.write(work, PLACEMENTS)


def check_lease(connection: Connection, batch: BatchRecord, *, among: Collection[str] = LIVE) -> None:
    """Raises LeaseLost where somebody else has the batch now, or its status is none of those `among`."""
    mine = select(batches.c.status).where(batches.c.seq == batch.seq, batches.c.epoch == batch.epoch)
    status = connection.scalar(mine)
    if status is None:
        raise LeaseLost("the batch is another worker's")
    if status not in among:
        raise LeaseLost(f"the batch is {status} by now")


def _standing(connection: Connection) -> dict[tuple[str, str], Open]:
    place = (placements.c.deployment, placements.c.model)
    query = select(*place, func.count(), func.sum(placements.c.tokens)).where(placements.c.open == 1).group_by(*place)
    return {(name, model): Open(shards, int(tokens)) for name, model, shards, tokens in connection.execute(query)}


def _added(connection: Connection, batch: BatchRecord, wanted: NewPlacement) -> PlacementRecord:
    key = _next(connection, batch, wanted.chunk)
    connection.execute(insert(chunks).values(**key, **wanted.chunk))
    query = insert(placements).values(**key, **wanted.placement, open=1).returning(*PLACEMENT_COLUMNS)
    return PlacementRecord(**connection.execute(query).mappings().one())


def _next(connection: Connection, batch: BatchRecord, chunk: Mapping[str, Any]) -> dict[str, int]:
    """The key of a new chunk. Raises LeaseLost where an earlier try, broken off, has given its lines out after all."""
    same = select(chunks.c.n).where(chunks.c.batch_seq == batch.seq)
    same = same.where(chunks.c.start < chunk["end"], chunks.c.end > chunk["start"]).limit(1)
    if connection.scalar(same) is not None:
        raise LeaseLost("the lines are in another chunk by now")
    last = connection.scalar(select(func.max(chunks.c.n)).where(chunks.c.batch_seq == batch.seq))
    return {"batch_seq": batch.seq, "n": 0 if last is None else last + 1}


def _is(placed: PlacementRecord) -> ColumnElement[bool]:
    return (placements.c.batch_seq == placed.batch_seq) & (placements.c.n == placed.n)
