"""The registry's part for keys: of secrets it knows the digests alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, insert, select, update

from batchyard.service.domain.keys import KeyRecord
from batchyard.service.errors import FailedPrecondition, InvalidArgument, NotFound
from batchyard.service.registry.base import Database, key
from batchyard.service.registry.dialects.sqlite_statements import Prepared, given
from batchyard.service.registry.schema import keys

_COLUMNS = [keys.c[name] for name in KeyRecord.__struct_fields__]


class StoredKey(NamedTuple):
    """A key with the digests of its secret, and of the one before, which works until `old_until`."""

    record: KeyRecord
    digest: str
    old_digest: str | None
    old_until: int | None


def _stored(digest: str, old_digest: str | None, old_until: int | None, **row: Any) -> StoredKey:
    return StoredKey(_record(row), digest, old_digest, old_until)


_FIND = Prepared(
    select(*_COLUMNS, keys.c.digest, keys.c.old_digest, keys.c.old_until).where(keys.c.id == given("id")), _stored
)


class KeyRegistry:
    """The keys of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: KeyRecord, digest: str) -> None:
        """Registers a key."""
        values = {**msgspec.to_builtins(record), "digest": digest}
        await self._database.write(lambda connection: connection.execute(insert(keys).values(**values)), key(record.id))

    async def find(self, key_id: str) -> StoredKey | None:
        return await self._database.look(lambda connection: _FIND.one(connection, id=key_id))

    async def page(self, tenant: str, after: str, limit: int) -> tuple[Sequence[KeyRecord], bool]:
        """A page, newest first, and whether more follow. Raises InvalidArgument for an unknown `after`."""
        query = select(*_COLUMNS).order_by(keys.c.seq.desc()).limit(limit + 1)
        query = query.where(keys.c.tenant == tenant) if tenant else query

        def work(connection: Connection) -> tuple[Sequence[KeyRecord], bool]:
            page = query
            if after:
                seq = connection.scalar(select(keys.c.seq).where(keys.c.id == after))
                if seq is None:
                    raise no_cursor(after)
                page = query.where(keys.c.seq < seq)
            found = [_record(row) for row in connection.execute(page).mappings()]
            return found[:limit], len(found) > limit

        return await self._database.read(work)

    async def rotate(self, key_id: str, digest: str, now: int, old_until: int) -> KeyRecord:
        """Gives a key another secret. Raises NotFound, and FailedPrecondition for one that doesn't work any more."""

        def work(connection: Connection) -> KeyRecord:
            record = _one(connection, key_id)
            if record.ended(now):
                message = f"'{key_id}' was revoked or has expired. Create another key."
                raise FailedPrecondition(message, param="key_id", reason="KEY_ENDED")
            old = {"old_digest": keys.c.digest, "old_until": old_until}
            return _updated(connection, key_id, digest=digest, rotated_at=now, **old)

        return await self._database.write(work, key(key_id), urgent=True)

    async def revoke(self, key_id: str, now: int) -> KeyRecord:
        """Ends a key; one that was revoked is left as it is. Raises NotFound."""

        def work(connection: Connection) -> KeyRecord:
            record = _one(connection, key_id)
            return record if record.revoked_at is not None else _updated(connection, key_id, revoked_at=now)

        return await self._database.write(work, key(key_id), urgent=True)


def no_cursor(after: str) -> InvalidArgument:
    """The refusal of a cursor that names nothing."""
    return InvalidArgument(f"Invalid 'after': there is no '{after}'.", param="after")


def _record(row: Any) -> KeyRecord:
    return msgspec.convert({name: row[name] for name in KeyRecord.__struct_fields__}, KeyRecord)


def _one(connection: Connection, key_id: str) -> KeyRecord:
    row = connection.execute(select(*_COLUMNS).where(keys.c.id == key_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"No key found with id '{key_id}'.", param="key_id")
    return _record(row)


def _updated(connection: Connection, key_id: str, **values: Any) -> KeyRecord:
    query = update(keys).where(keys.c.id == key_id).values(**values).returning(*_COLUMNS)
    return _record(connection.execute(query).mappings().one())
