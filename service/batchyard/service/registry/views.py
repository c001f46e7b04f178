"""Which rows a caller sees: the tenant's, at a place or anywhere, and at the places that its key may use.

Every statement here carries the tenant. They are made once for each shape that a view may have.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, or_, select, union

from batchyard.service.domain.keys import KeyRecord
from batchyard.service.domain.records import BatchRecord
from batchyard.service.errors import InvalidArgument
from batchyard.service.registry.dialects.sqlite_statements import Prepared, given, named, names, single
from batchyard.service.registry.rows import READ
from batchyard.service.registry.schema import batches, files

_SHAPES = 128  # whose statements are kept, of each kind
_FEW = 8  # names, each of whose rows can be asked for by itself


class _Shape(NamedTuple):
    """Whether a place is asked for, and how many names the key allows: places, and providers of those."""

    placed: bool = False
    allowed: int = 0
    homes: int = 0


class View:
    """`place` is a provider's name or a deployment's, empty: any. `homes` has the provider of each deployment."""

    def __init__(self, tenant: str, key: KeyRecord | None, homes: Mapping[str, str], place: str = "") -> None:
        allowed = key.providers if key else ()
        # A batch may fail before it gets to one of its provider's deployments.
        providers = sorted({homes[name] for name in allowed if name in homes})
        self._shape = _Shape(bool(place), len(allowed), len(providers))
        self._values = {"tenant": tenant, "place": place} | named("allowed", allowed) | named("home", providers)

    def one(self, connection: Connection, table: Table, row_id: str) -> Any:
        """The record of an id, or None."""
        return _one(table, "id", self._shape).one(connection, id=row_id, **self._values)

    def batch_of(self, connection: Connection, seq: int) -> BatchRecord | None:
        found: BatchRecord | None = _one(batches, "seq", self._shape).one(connection, seq=seq, **self._values)
        return found

    def page(
        self,
        connection: Connection,
        table: Table,
        *,
        after: str,
        limit: int,
        ascending: bool = False,
        purpose: str = "",
    ) -> tuple[list[Any], bool]:
        """A page in the order of creation, and whether more follow. Raises InvalidArgument for an unknown `after`."""
        values: dict[str, Any] = {**self._values, "limit": limit + 1, "purpose": purpose}
        if after:
            seq = _cursor(table, self._shape._replace(placed=False)).one(connection, id=after, **self._values)
            if seq is None:
                raise InvalidArgument(f"Invalid 'after': there is no '{after}'.", param="after")
            values["after"] = seq
        rows = _page(table, self._shape, bool(after), ascending, bool(purpose)).all(connection, **values)
        return rows[:limit], len(rows) > limit


@lru_cache(_SHAPES)
def _one(table: Table, column: str, shape: _Shape) -> Prepared[Any]:
    record, columns = READ[table]
    query = select(*columns).where(table.c[column] == given(column), *_seen(table, shape))
    return Prepared(query.where(table.c.deleted_at.is_(None)) if table is files else query, record)


@lru_cache(_SHAPES)
def _cursor(table: Table, shape: _Shape) -> Prepared[int]:
    """One that was deleted serves too."""
    return Prepared(select(table.c.seq).where(table.c.id == given("id"), *_seen(table, shape)), single)


@lru_cache(_SHAPES)
def _page(table: Table, shape: _Shape, after: bool, ascending: bool, purpose: bool) -> Prepared[Any]:
    """Over an index of the tenant's rows, or one for each name by which rows are at a place, in their order."""
    record, columns = READ[table]
    order = table.c.seq.asc() if ascending else table.c.seq.desc()
    bounds: list[ColumnElement[bool]] = [table.c.deleted_at.is_(None)] if table is files else []
    if purpose:
        bounds.append(table.c.purpose == given("purpose"))
    if after:
        bounds.append(table.c.seq > given("after") if ascending else table.c.seq < given("after"))
    query = select(*columns).order_by(order)
    places = _at(table, shape)
    if not places:
        return Prepared(query.where(*_seen(table, shape), *bounds).limit(given("limit")), record)
    arms = [select(table.c.seq).where(place, *_seen(table, shape._replace(placed=False)), *bounds) for place in places]
    found = union(*arms).order_by(order).limit(given("limit")).subquery()
    return Prepared(query.where(table.c.seq.in_(select(found.c.seq))), record)


def _seen(table: Table, shape: _Shape) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [table.c.tenant == given("tenant")]
    if shape.allowed:
        allowed, homes = names("allowed", shape.allowed), names("home", shape.homes)
        failed = table.c.deployment.is_(None) & table.c.provider.in_(homes)
        where.append(table.c.provider.in_(allowed) | table.c.deployment.in_(allowed) | failed)
    if shape.placed:
        where.append(or_(table.c.provider == given("place"), table.c.deployment == given("place")))
    return where


def _at(table: Table, shape: _Shape) -> list[ColumnElement[bool]]:
    """By which names rows are at a place that counts; none where these are too many, or all."""
    if shape.placed:
        return [table.c.provider == given("place"), table.c.deployment == given("place")]
    if shape.allowed > _FEW:
        return []
    allowed, homes = names("allowed", shape.allowed), names("home", shape.homes)
    return [
        *(table.c.provider == name for name in [*allowed, *homes]),
        *(table.c.deployment == name for name in allowed),
    ]
