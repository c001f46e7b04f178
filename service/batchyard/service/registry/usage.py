"""What tenants and keys use: always counted from the rows, never kept as a number of its own.

    a batch that has not ended, or is still to be made by a deployment    counts as it was reckoned at its creation
    one that has ended                                                    counts what it used
    one that failed, or was cancelled, before a line ran                  counts nothing

So there is nothing to give back when a batch is cancelled or fails, and nothing to settle when it ends: the row that
says so is all. Nothing can be given back twice, or forgotten over a restart. A provider that tells no usage is believed
to have used what was reckoned for the lines that it completed.

What is asked here is asked in the transaction that adds a batch, so that creations at the same time can't exceed a
limit together; only those who have a limit pay for it, and only when they may be near it.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, case, func, select

from batchyard.service.config.settings import Rate
from batchyard.service.domain.names import BYTES_PER_TOKEN
from batchyard.service.domain.quotas import DAY_SECONDS, Bound
from batchyard.service.domain.records import ENDED, BatchRecord, FileRecord
from batchyard.service.errors import Busy
from batchyard.service.registry.dialects.sqlite_statements import Prepared, given, single
from batchyard.service.registry.quota_headroom import QuotaHeadroom, QuotaRequest
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
_COUNTED = {
    "batches_in_flight": "batches",
    "enqueued_tokens": "tokens",
    "lines_per_day": "lines",
    "tokens_per_day": "tokens",
}
_LINES = case((~_HAS_ENDED, batches.c.estimated_lines), else_=batches.c.completed + batches.c.failed)


def _newest(table: Table) -> Prepared[int]:
    """When a tenant's row was made, counted from the newest, without those that a clock put back leaves ahead."""
    created_at = table.c.created_at
    query = select(created_at).where(table.c.tenant == given("tenant"), created_at <= given("now"))
    query = query.where(table.c.purpose != "batch_output") if table is files else query
    return Prepared(query.order_by(table.c.seq.desc()).limit(1).offset(given("offset")), single)


BATCHES, UPLOADS = _newest(batches), _newest(files)


class UsageEstimate(NamedTuple):
    """What a batch is reckoned at when it is created."""

    tokens: int
    lines: int

    @classmethod
    def over(cls, file: FileRecord | None) -> "UsageEstimate":
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


def check_batch(
    connection: Connection, headroom: QuotaHeadroom, bounds: Iterable[Bound], now: int, new: UsageEstimate
) -> None:
    """Raises Busy where one batch more would exceed a limit."""
    for bound in bounds:
        live = _wanted(bound, batches_in_flight=1, enqueued_tokens=new.tokens)
        if live and not headroom.take(bound.scope, live, now):
            used = used_now(connection, bound)
            for (name, most, wanted), amount in zip(live, _amounts(live, used), strict=True):
                if amount + wanted > most:
                    raise bound.exceeded(name, amount, wanted, _AGAIN_SECONDS)
                headroom.put(bound.scope, name, most, amount + wanted, now)
        day = _wanted(bound, lines_per_day=new.lines, tokens_per_day=new.tokens)
        if day and not headroom.take(bound.scope, day, now):
            used = used_today(connection, bound, now)
            for (name, most, wanted), amount in zip(day, _amounts(day, used), strict=True):
                if (over := amount + wanted - most) > 0:
                    again = _until(connection, bound, _LINES if name == "lines_per_day" else _TOKENS, over, now)
                    raise bound.exceeded(name, amount, wanted, again)
                headroom.put(bound.scope, name, most, amount + wanted, now)


def ended(headroom: QuotaHeadroom, batch: BatchRecord) -> None:
    """Notes what a batch that has ended used beyond what it was reckoned at."""
    tokens, lines = batch.input_tokens + batch.output_tokens, batch.completed + batch.failed
    if not tokens and batch.estimated_lines:
        tokens = batch.estimated_tokens * batch.completed // batch.estimated_lines
    headroom.used(batch.tenant, batch.key_id, "tokens_per_day", tokens - batch.estimated_tokens)
    headroom.used(batch.tenant, batch.key_id, "lines_per_day", lines - batch.estimated_lines)


def check_creations(connection: Connection, headroom: QuotaHeadroom, rate: Rate, tenant: str, now: int) -> None:
    """Raises Busy where a tenant has created too many batches."""
    if headroom.take((tenant, None), [QuotaRequest("creations", rate.most, 1)], now):
        return
    check_rate(connection, BATCHES, rate, tenant, now)
    for so_many in (rate.most // 2, rate.most * 7 // 8):
        oldest = BATCHES.one(connection, tenant=tenant, now=now, offset=so_many)
        if oldest is None or oldest <= now - rate.seconds:
            headroom.put((tenant, None), "creations", rate.most, so_many + 1, now)
            return


def check_rate(
    connection: Connection, newest: Prepared[int], rate: Rate, tenant: str, now: int, running: int = 0
) -> None:
    """Raises Busy where a tenant has too many rows, those included that are `running`: that are to come."""
    oldest: int | None = now
    if running < rate.most:
        oldest = newest.one(connection, tenant=tenant, now=now, offset=rate.most - 1 - running)
    if oldest is not None and oldest > now - rate.seconds:
        raise Busy(
            f"Rate limit reached: at most {rate.most} in {rate.seconds} seconds. Please try again later.",
            retry_after=min(oldest + rate.seconds - now, rate.seconds),
            code="rate_limit_exceeded",
        )


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


def _wanted(bound: Bound, **amounts: int) -> list[QuotaRequest]:
    """What is wanted of those of the limits that there are."""
    found = ((name, getattr(bound.quotas, name), amount) for name, amount in amounts.items())
    return [QuotaRequest(name, most, amount) for name, most, amount in found if most]


def _amounts(limits: Iterable[QuotaRequest], used: Usage) -> list[int]:
    """What each of the limits counts of what is used."""
    return [getattr(used, _COUNTED[limit.name]) for limit in limits]


def _until(connection: Connection, bound: Bound, amount: ColumnElement[int], over: int, now: int) -> int:
    """Seconds until so much of today has been a day ago; a day where that is not enough."""
    gone = func.sum(amount).over(order_by=batches.c.created_at)
    days = _today(select(batches.c.created_at, gone.label("gone")), bound, now).subquery()
    last = connection.scalar(select(func.min(days.c.created_at)).where(days.c.gone >= over))
    return DAY_SECONDS if last is None else min(DAY_SECONDS, last + DAY_SECONDS - now)
