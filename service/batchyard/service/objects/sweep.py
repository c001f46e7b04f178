"""Removes what no row names: what is left where a process died, or a commit of rows failed, after an object's own."""

import logging
from collections.abc import AsyncIterator

from batchyard.service.errors import FailedPrecondition
from batchyard.service.objects.base import Known, ObjectStore

AGE_SECONDS = 48 * 3600.0
"""The least age: far more than lies between an object and the row that names it, however long its upload takes."""
MOST_UNKNOWN = 100
"""Objects that nobody refers to and that are removed unasked; they are too while they are 1 % of all."""
_GROUP = 500

_log = logging.getLogger("batchyard.store")


def is_suspicious(unknown: int, objects: int) -> bool:
    """Whether so many of all objects are unknown that it looks like the registry of another store, or an older one."""
    return unknown > MOST_UNKNOWN and unknown * 100 > objects


async def sweep(store: ObjectStore, known: Known, before: float, prefix: str = "") -> int:
    """Removes the objects written before a time, in Unix seconds, that nobody refers to; returns how many those were.

    It may run beside anything, in any number of processes. `before` should be `AGE_SECONDS` ago, by a clock that is
    not known to have jumped. Raises Unavailable, and FailedPrecondition, with nothing removed, where they are
    suspiciously many.
    """
    objects = unknown = removed = 0
    async for count, keys in _unknown(store, known, before, prefix):
        objects += count
        unknown += len(keys)
    if is_suspicious(unknown, objects):
        raise FailedPrecondition(f"The registry does not name {unknown} stored objects of {objects}: none is removed.")
    if unknown:
        async for _, keys in _unknown(store, known, before, prefix):
            for key in keys:
                await store.delete(key)
                removed += 1
        _log.warning("stored objects that nobody refers to are removed", extra={"objects": removed})
    return removed


async def _unknown(store: ObjectStore, known: Known, before: float, prefix: str) -> AsyncIterator[tuple[int, set[str]]]:
    """By groups: how many objects there are, and those of them that nobody refers to."""
    group: set[str] = set()
    async for found in store.listed(prefix, before):
        group.add(found.key)
        if len(group) == _GROUP:
            yield _GROUP, group - await known(list(group))
            group = set()
    if group:
        yield len(group), group - await known(list(group))
