"""Rows of the registry as records: which columns they have, and the statements that add one."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, insert

from batchyard.service.registry.prepared import Prepared, given
from batchyard.service.registry.records import BatchRecord, FileRecord, PlacementRecord
from batchyard.service.registry.schema import batches, file_parts, files, idempotency_keys, placements

FILE_COLUMNS = [files.c[field.name] for field in msgspec.structs.fields(FileRecord)]
BATCH_COLUMNS = [batches.c[field.name] for field in msgspec.structs.fields(BatchRecord)]
PLACEMENT_COLUMNS = [placements.c[field.name] for field in msgspec.structs.fields(PlacementRecord)]

READ: Mapping[Table, tuple[Callable[..., Any], list[Any]]] = {
    batches: (BatchRecord, BATCH_COLUMNS),
    files: (FileRecord, FILE_COLUMNS),
    file_parts: (dict, []),
    idempotency_keys: (dict, []),
}
"""What is made of a table's rows, and of which columns."""


def added(connection: Connection, table: Table, row: Mapping[str, Any]) -> Any:
    """The record of a new row, which has the columns that `row` names; None where there is none of its table."""
    return _adding(table, tuple(row)).one(connection, **row)


@lru_cache(64)
def _adding(table: Table, names: tuple[str, ...]) -> Prepared[Any]:
    record, columns = READ[table]
    query = insert(table).values({name: given(name) for name in names})
    return Prepared(query.returning(*columns) if columns else query, record)
