"""Rows of the registry as records: which columns they have, and the statements that add one or change it."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, insert, update

from batchyard.service.domain.records import BatchRecord, ChunkRecord, FileRecord, PlacementRecord
from batchyard.service.registry.dialects.sqlite_statements import Prepared, given
from batchyard.service.registry.schema import batches, chunks, file_parts, files, idempotency_keys, intents, placements

FILE_COLUMNS = [files.c[field.name] for field in msgspec.structs.fields(FileRecord)]
BATCH_COLUMNS = [batches.c[field.name] for field in msgspec.structs.fields(BatchRecord)]
PLACEMENT_COLUMNS = [placements.c[field.name] for field in msgspec.structs.fields(PlacementRecord)]
CHUNK_COLUMNS = [chunks.c[field.name] for field in msgspec.structs.fields(ChunkRecord)]

READ: Mapping[Table, tuple[Callable[..., Any], list[Any]]] = {
    batches: (BatchRecord, BATCH_COLUMNS),
    files: (FileRecord, FILE_COLUMNS),
    placements: (PlacementRecord, PLACEMENT_COLUMNS),
    chunks: (ChunkRecord, CHUNK_COLUMNS),
    file_parts: (dict, []),
    idempotency_keys: (dict, []),
    intents: (dict, []),
}
"""What is made of a table's rows, and of which columns."""


def added(connection: Connection, table: Table, row: Mapping[str, Any]) -> Any:
    """The record of a new row, which has the columns that `row` names; None where there is none of its table."""
    return _adding(table, tuple(row)).one(connection, **row)


def changed(connection: Connection, table: Table, values: Mapping[str, Any], **if_: Any) -> Any:
    """The record of the row that has the columns `if_`, with `values` written; None where there is none."""
    were = {f"if_{name}": value for name, value in if_.items()}
    return _changing(table, tuple(values), tuple(if_)).one(connection, **values, **were)


@lru_cache(64)
def _adding(table: Table, names: tuple[str, ...]) -> Prepared[Any]:
    record, columns = READ[table]
    query = insert(table).values({name: given(name) for name in names})
    return Prepared(query.returning(*columns) if columns else query, record)


@lru_cache(64)
def _changing(table: Table, names: tuple[str, ...], found_by: tuple[str, ...]) -> Prepared[Any]:
    record, columns = READ[table]
    query = update(table).where(*(table.c[name] == given(f"if_{name}") for name in found_by))
    return Prepared(query.values({name: given(name) for name in names}).returning(*columns), record)
