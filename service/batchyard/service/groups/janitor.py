"""Removes what shards leave behind: inputs at deployments, which keep only so many, batches that were given up while
their deployment could not be reached, and our rows of what is done.

An input whose upload was not answered is known by its name alone: those are looked for where an upload broke off, and
everywhere after a start.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress

from batchyard.service.background import in_background
from batchyard.service.errors import BatchyardError
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.service.registry.placements import Placements
from batchyard.service.registry.tenant import TenantRegistry

_GRACE_SECONDS = 300.0  # an input is registered a moment before its shard says that it is its
_LOOKS = 3  # after which a file that has not come to light won't
_INPUT = re.compile(r"(batch_[0-9a-f]{32})-\d+\.jsonl")

_log = logging.getLogger("batchyard.groups")


def input_name(batch_id: str, n: int) -> str:
    """What the input of a shard is called."""
    return f"{batch_id}-{n}.jsonl"


class Cleaner:
    """Looks every `seconds`; what was there at the start belongs to nobody who still works."""

    def __init__(
        self,
        placements: Placements,
        internal: TenantRegistry,
        providers: Mapping[str, RemoteProvider],
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._placements = placements
        self._internal = internal
        self._providers = providers
        self._seconds = seconds
        self._clock = clock
        self._started = clock()
        self._looks = dict.fromkeys(providers, _LOOKS)
        self._strays: dict[str, set[str]] = {}

    def running(self) -> AbstractAsyncContextManager[None]:
        """Looks until the context ends."""
        return in_background(self._loop())

    def suspect(self, deployment: str) -> None:
        """An upload to a deployment was not answered: it may hold a file that we don't know."""
        self._looks[deployment] = _LOOKS

    async def sweep(self) -> None:
        """One round."""
        now = self._clock()
        before = int(max(now - _GRACE_SECONDS, min(self._started, now)))
        for name, provider in self._providers.items():
            if provider.available:
                await self._sweep(name, provider, before)
        for name in [name for name, looks in self._looks.items() if looks]:
            with suppress(BatchyardError):
                await self._look(name)
        while await self._placements.forget(int(now)):
            pass

    async def _sweep(self, name: str, provider: RemoteProvider, before: int) -> None:
        """What is in use still, or can't be removed now, the next round tries again."""
        for file in await self._placements.unused_inputs(name, before):
            with suppress(BatchyardError):
                await provider.delete(self._internal, file)
        for shard in await self._placements.abandoned(name):
            with suppress(BatchyardError):
                await provider.cancel_batch(self._internal, shard)

    async def _look(self, name: str) -> None:
        """Removes inputs of our batches that no row stands for, now and in the last look."""
        found = {file_id async for file_id in self._unknown(name)}
        for file_id in found & self._strays.get(name, set()):
            _log.warning("a file that nobody asked for again is removed", extra={"deployment": name, "file": file_id})
            await self._providers[name].discard(file_id)
        self._strays[name] = found
        self._looks[name] -= not found

    async def _unknown(self, name: str) -> AsyncIterator[str]:
        async for page in self._providers[name].inputs():
            named = {file_id: match[1] for file_id, filename in page.items() if (match := _INPUT.fullmatch(filename))}
            for file_id in await self._placements.strays(name, named):
                yield file_id

    async def _loop(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception:
                _log.exception("cleaning failed, will try again")
            await asyncio.sleep(self._seconds)
