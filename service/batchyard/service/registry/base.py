"""What the registry needs of a database: units of work that read, and units that change what they name.

A unit of work is a function of a connection. It must not await, and may run again from its beginning where a database
says so: what it changes besides its rows has to follow the commit. Most units that write read first, and decide by what
they found. SQLite has one writer, so that nothing changes in between; a database with several keeps others away from
the aggregates that a unit names, from its first statement to its commit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from batchyard.service.registry.quota_headroom import QuotaHeadroom

T = TypeVar("T")
Work = Callable[[Connection], T]


class AggregateKind(StrEnum):
    """In the order in which a database with several writers locks them, so that no two units wait for each other."""

    REGISTRY = "registry"
    CLAIMS = "claims"
    TENANT = "tenant"
    PLACEMENTS = "placements"
    DEPLOYMENT = "deployment"
    BATCH = "batch"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Rows that change together, by one unit of work at a time."""

    kind: AggregateKind
    id: str = ""


REGISTRY = Aggregate(AggregateKind.REGISTRY)
"""Which registry this is, and what sweeps remove from all tenants' rows."""
CLAIMS = Aggregate(AggregateKind.CLAIMS)
"""Who has which batch: two workers must not take the same one."""
PLACEMENTS = Aggregate(AggregateKind.PLACEMENTS)
"""What is open at deployments, which batches of all groups share: a budget is read, then spent."""


def batch(seq: int) -> Aggregate:
    """A batch with its chunks and shards: its status is read before it moves, and its counts are summed."""
    return Aggregate(AggregateKind.BATCH, str(seq))


def tenant(name: str) -> Aggregate:
    """A tenant's files, batches, idempotency keys and what it has used of its limits."""
    return Aggregate(AggregateKind.TENANT, name)


def deployment(name: str) -> Aggregate:
    """What is registered of a deployment: the first who registers one of its ids owns it."""
    return Aggregate(AggregateKind.DEPLOYMENT, name)


def key(key_id: str) -> Aggregate:
    """A key of callers."""
    return Aggregate(AggregateKind.KEY, key_id)


class Database(Protocol):
    """A registry's database."""

    headroom: QuotaHeadroom
    """What is left of limits, as far as the only writer remembers it."""
    expiry: Callable[[], float]
    """The time by which what is remembered ends, in Unix seconds."""

    async def read(self, work: Work[T]) -> T:
        """What `work` returns, from one consistent view of the registry. Raises Unavailable where it can't be read."""

    async def look(self, work: Work[T]) -> T:
        """Like `read`, for one statement that gives a few rows found by an index."""

    async def write(self, work: Work[T], of: Aggregate, *more: Aggregate, urgent: bool = False) -> T:
        """What `work` returns, once committed: all of its statements, durably, or none.

        `of` and `more` are all that it reads in order to change something. Raises what `work` raises, StorageFull or
        Unavailable. `urgent` is what has to work on a full disk too: it ends something, or makes room.
        """
