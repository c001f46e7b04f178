"""Bounds on uploads that are under way: how many there are, and what they may add to what is stored."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from batchyard.service.domain.names import INTERNAL
from batchyard.service.domain.quotas import Bound, Scope
from batchyard.service.errors import Busy
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.workers import Workers

_FORM_BYTES = 64 << 10  # what an announced size may have beside the file: a form around it
_AGAIN_SECONDS = 60.0  # until it is worth another try, where nobody knows when files are deleted
_READERS = min(4, max(2, os.cpu_count() or 1))  # more would only wait for the interpreter's lock

T = TypeVar("T")


class UploadPlaces:
    """`most` places, each for one upload, of all tenants and providers of this process, and threads that read them.

    `close` it when no upload is under way.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._readers = Workers("upload-read", _READERS)
        self._running: Counter[Scope] = Counter()
        self._taken = 0

    @contextmanager
    def taken(self, owner: TenantRegistry) -> Iterator[int]:
        """Holds a place; gives how many others the tenant holds. Raises Busy where there is none.

        What the service itself sends on takes none: its own bound is elsewhere.
        """
        if owner.tenant == INTERNAL:
            yield 0
            return
        if self._taken >= self._most:
            raise Busy(f"More than {self._most} uploads are under way. Try again soon.")
        for bound in owner.bounds:
            most, running = bound.quotas.concurrent_uploads, self._running[bound.scope]
            if most and running >= most:
                raise bound.exceeded("concurrent_uploads", running, 1, 1)
        scopes = {(owner.tenant, None), (owner.tenant, owner.key_id)}
        others = self._running[owner.tenant, None]
        self._running.update(scopes)
        self._taken += 1
        try:
            yield others
        finally:
            self._running.subtract(scopes)
            self._running += Counter()  # without those that are at 0
            self._taken -= 1

    async def read(self, owner: TenantRegistry, work: Callable[..., T], *args: Any) -> T:
        """What `work(*args)` finds out of an upload's bytes, in a thread that tenants get by turns.

        Nothing else waits for these threads: what a caller sends holds up uploads alone.
        """
        return await self._readers.run(work, *args, owner=owner.tenant)

    def close(self) -> None:
        """Ends the threads."""
        self._readers.close()


class StorageReservations:
    """Bytes of uploads that are under way, of those who may store only so many."""

    def __init__(self) -> None:
        self._coming: Counter[Scope] = Counter()

    @asynccontextmanager
    async def arriving(self, owner: TenantRegistry, announced: int | None) -> AsyncIterator["StorageReservation"]:
        """An upload of so many bytes, if that is known. Raises Busy where they don't fit."""
        bounds = [bound for bound in owner.bounds if bound.quotas.stored_bytes]
        arrival = StorageReservation(owner, bounds, self._coming)
        try:
            await arrival.check(max(1, (announced or 0) - _FORM_BYTES))
            yield arrival
        finally:
            arrival.leave()


class StorageReservation:
    """An upload's bytes, until its file is registered, or is not to be."""

    def __init__(self, owner: TenantRegistry, bounds: Sequence[Bound], coming: Counter[Scope]) -> None:
        self._owner = owner
        self._bounds = bounds
        self._coming = coming
        self._stored = [0 for _ in bounds]
        self._size = 0

    async def check(self, more: int = 0) -> None:
        """Raises Busy where what has come, and `more`, does not fit beside what is stored now."""
        if not self._bounds:
            return
        # Before the registry is asked: what is registered meanwhile rather counts twice than not at all.
        coming = [self._coming[bound.scope] for bound in self._bounds]
        self._stored = await self._owner.stored(self._bounds)
        for bound, stored, size in zip(self._bounds, self._stored, coming, strict=True):
            _check(bound, stored + size - self._size, self._size + more)

    def take(self, size: int) -> None:
        """Counts bytes that have come. Raises Busy where they don't fit."""
        for bound, stored in zip(self._bounds, self._stored, strict=True):
            _check(bound, stored + self._coming[bound.scope], size)
        self._size += size
        self._coming.update({bound.scope: size for bound in self._bounds})

    def leave(self) -> None:
        self._coming.subtract({bound.scope: self._size for bound in self._bounds})
        self._coming += Counter()


def _check(bound: Bound, used: int, wanted: int) -> None:
    if used + wanted > (bound.quotas.stored_bytes or 0):
        raise bound.exceeded("stored_bytes", used, wanted, _AGAIN_SECONDS)
