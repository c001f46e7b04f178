"""What tenants and keys use: always counted from the rows, never kept as a number of its own.

    a batch that has not ended, or is still to be made by a deployment    counts as it was reckoned at its creation
    one that has ended                                                    counts what it used
    one that failed, or was cancelled, before a line ran                  counts nothing

So there is nothing to give back when a batch is cancelled or fails, and nothing to settle when it ends: the row that
says so is all. Nothing can be given back twice, or forgotten over a restart. A provider that tells no usage is believed
to have used what was reckoned for the lines that it completed.

What is asked here is asked in the transaction that adds a batch, so that creations at the same time can't exceed a
limit together; only those who have a limit pay for it.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, case, func, select

from batchyard.service.jsonl import BYTES_PER_TOKEN
from batchyard.service.quotas import DAY_SECONDS, Bound
from batchyard.service.registry.records import ENDED, FileRecord
from batchyard.service.registry.schema import IS_LIVE, USES, batches, files, intents

_AGAIN_SECONDS = 30.0  # until it is worth another try, where nobody knows when a batch ends

_HAS_ENDED = batches.c.status.in_(ENDED)
_REPORTED = batches.c.input_tokens + batches.c.output_tokens
_TOKENS = case(
    (~_HAS_ENDED, batches.c.estimated_tokens),
    (_REPORTED > 0, _REPORTED),
    (batches.c.estimated_lines > 0, batches.c.estimated_tokens * batches.c.completed // batches.c.estimated_lines),
    else_=0,
)
_LINES = case((~_HAS_ENDED, batches.c.estimated_lines), else_=batches.c.completed + batches.c.failed)


class Reckoned(NamedTuple):
    """What a batch is reckoned at when it is created."""

    tokens: int
    lines: int

    @classmethod
    def over(cls, file: FileRecord | None) -> "Reckoned":
        """A batch over this input: nothing where that is not there; without a scan only the size is known."""
        if file is None:
            return cls(0, 0)
        stats = file.stats or {"estimated_tokens": file.bytes // BYTES_PER_TOKEN, "lines": 0}
        return cls(stats["estimated_tokens"], stats["lines"])

    @property
    def columns(self) -> dict[str, int]:
        """Of `batches`."""
        return {"estimated_tokens": self.tokens, "estimated_lines": self.lines}


class Usage(NamedTuple):
    """Batches, their tokens and their lines."""

    batches: int = 0
    tokens: int = 0
    lines: int = 0


def check_batch(connection: Connection, bounds: Iterable[Bound], now: int, new: Reckoned) -> None:
    """Raises Busy where one batch more would exceed a limit."""
    for bound in bounds:
        quotas = bound.quotas
        if quotas.batches_in_flight or quotas.enqueued_tokens:
            live = used_now(connection, bound)
            for name, used, wanted in (
                ("batches_in_flight", live.batches, 1),
                ("enqueued_tokens", live.tokens, new.tokens),
            ):
                if _passed(bound, name, used + wanted):
                    raise bound.exceeded(name, used, wanted, _AGAIN_SECONDS)
        if quotas.lines_per_day or quotas.tokens_per_day:
            day = used_today(connection, bound, now)
            for name, amount, used, wanted in (
                ("lines_per_day", _LINES, day.lines, new.lines),
                ("tokens_per_day", _TOKENS, day.tokens, new.tokens),
            ):
                if over := _passed(bound, name, used + wanted):
                    raise bound.exceeded(name, used, wanted, _until(connection, bound, amount, over, now))


def stored_bytes(connection: Connection, bound: Bound) -> int:
    """Bytes of files that were not deleted, wherever they are."""
    query = _of(select(func.sum(files.c.bytes)), files, bound).where(files.c.deleted_at.is_(None))
    return int(connection.scalar(query) or 0)


def used_now(connection: Connection, bound: Bound) -> Usage:
    """By batches that have not ended."""
    sums = _sums(batches.c.estimated_tokens, batches.c.estimated_lines)
    return _sum(connection, _of(sums, batches, bound).where(IS_LIVE), _intents(bound))


def used_today(connection: Connection, bound: Bound, now: int) -> Usage:
    """By batches that were created in the last 24 hours."""
    return _sum(connection, _today(_sums(_TOKENS, _LINES), bound, now), _intents(bound))


def _intents(bound: Bound) -> Select[Any]:
    """Batches whose creation is under way, or in doubt."""
    amounts = (intents.c.request[name].as_integer() for name in ("estimated_tokens", "estimated_lines"))
    query = _sums(*amounts).where(intents.c.tenant == bound.tenant)
    return query.where(intents.c.request["key_id"].as_string() == bound.key.id) if bound.key else query


def _sums(*amounts: ColumnElement[int]) -> Select[Any]:
    """How many rows there are, and what they amount to."""
    columns: list[Any] = [func.count(), *map(func.sum, amounts)]
    return select(*columns)


def _sum(connection: Connection, *queries: Select[Any]) -> Usage:
    rows = [connection.execute(query).one() for query in queries]
    return Usage(*(sum(value or 0 for value in column) for column in zip(*rows, strict=True)))


def _today(query: Select[Any], bound: Bound, now: int) -> Select[Any]:
    """Rows that seem to lie ahead count too, as deployments have clocks of their own, but no clock put back by far."""
    created_at = batches.c.created_at
    return _of(query, batches, bound).where(USES, created_at > now - DAY_SECONDS, created_at < now + DAY_SECONDS)


def _of(query: Select[Any], table: Table, bound: Bound) -> Select[Any]:
    query = query.where(table.c.tenant == bound.tenant)
    return query.where(table.c.key_id == bound.key.id) if bound.key else query


def _passed(bound: Bound, name: str, total: int) -> int:
    """By how much a limit is exceeded; 0 where it is not, or where there is none."""
    most = getattr(bound.quotas, name)
    return max(0, total - most) if most else 0


def _until(connection: Connection, bound: Bound, amount: ColumnElement[int], over: int, now: int) -> int:
    """Seconds until so much of today has been a day ago; a day where that is not enough."""
    gone = func.sum(amount).over(order_by=batches.c.created_at)
    days = _today(select(batches.c.created_at, gone.label("gone")), bound, now).subquery()
    last = connection.scalar(select(func.min(days.c.created_at)).where(days.c.gone >= over))
    return DAY_SECONDS if last is None else min(DAY_SECONDS, last + DAY_SECONDS - now)
