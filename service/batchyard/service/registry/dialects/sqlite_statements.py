"""Statements of the hot paths: compiled once, and run by the driver itself within the caller's transaction.

SQLAlchemy takes a hundred times as long over a statement as SQLite over most of ours. It still writes their text.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import BindParameter, Connection, Delete, Insert, Select, Update, bindparam
from sqlalchemy.dialects import sqlite

R = TypeVar("R")

_DIALECT = sqlite.dialect(paramstyle="qmark")


def given(name: str) -> BindParameter[Any]:
    """A value of a statement that comes with each run."""
    return bindparam(name, required=False)


def names(kind: str, count: int) -> list[BindParameter[Any]]:
    """So many such values; `named` gives them."""
    return [given(f"{kind}_{n}") for n in range(count)]


def named(kind: str, values: Iterable[Any]) -> dict[str, Any]:
    return {f"{kind}_{n}": value for n, value in enumerate(values)}


def single(**row: Any) -> Any:
    """The record of a row of one column: its value."""
    (value,) = row.values()
    return value


class _Text(NamedTuple):
    """A statement as the driver takes it: its parameters in their order, what is fixed of them, and the columns."""

    sql: str
    order: list[str]
    fixed: dict[str, Any]
    encode: dict[str, Callable[[Any], Any]]
    columns: list[str]
    decode: dict[str, Callable[[Any], Any]]


class Prepared(Generic[R]):
    """A statement whose rows become what `record` makes of their columns, given by name.

    Values that come with each run are `given`. It is compiled when it is run first: not each service needs them all.
    """

    def __init__(self, statement: "Select[Any] | Insert | Update | Delete", record: Callable[..., R]) -> None:
        self._statement = statement
        self._record = record

    def all(self, connection: Connection, **values: Any) -> list[R]:
        """What the rows are that it gives."""
        return [self._made(row) for row in self._run(connection, values)]

    def one(self, connection: Connection, **values: Any) -> R | None:
        """The first row that it gives, if it gives any."""
        rows = self._run(connection, values)
        return self._made(rows[0]) if rows else None

    @cached_property
    def _text(self) -> _Text:
        compiled: Any = self._statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
        query = self._statement
        columns = list(query.selected_columns if isinstance(query, Select) else query.exported_columns)
        return _Text(
            sql=str(compiled),
            order=compiled.positiontup,
            fixed={name: value for name, value in compiled.params.items() if value is not None},
            encode={name: encode for name, bind in compiled.binds.items() if (encode := _processor(bind, "bind"))},
            columns=[str(column.key) for column in columns],
            decode={str(column.key): decode for column in columns if (decode := _processor(column, "result", None))},
        )

    def _run(self, connection: Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        text = self._text
        whole = {**text.fixed, **values}
        for name, encode in text.encode.items():
            whole[name] = encode(whole[name])
        parameters = tuple([whole[name] for name in text.order])
        for told in connection.dispatch.before_cursor_execute:  # as SQLAlchemy tells of the others
            told(connection, None, text.sql, parameters, None, False)
        driver: Any = connection.connection.dbapi_connection
        rows: list[tuple[Any, ...]] = driver.execute(text.sql, parameters).fetchall()
        return rows

    def _made(self, row: tuple[Any, ...]) -> R:
        columns = dict(zip(self._text.columns, row, strict=True))
        for name, decode in self._text.decode.items():
            columns[name] = decode(columns[name])
        return self._record(**columns)


def _processor(typed: Any, way: str, *more: Any) -> Any:
    """By which a value of JSON becomes text, or text a value; None for plain values."""
    return getattr(typed.type.dialect_impl(_DIALECT), f"{way}_processor")(_DIALECT, *more)
