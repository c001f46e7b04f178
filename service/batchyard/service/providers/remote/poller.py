"""Follows the live batches of one deployment, with one list where that serves: however many callers poll them."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, suppress
from typing import Any

from msgspec import structs

from batchyard.service.background import in_background
from batchyard.service.domain.records import BatchRecord
from batchyard.service.errors import BatchyardError, Refused
from batchyard.service.providers.openai.dialect import Members, OpenAI
from batchyard.service.providers.remote.columns import batch_values, file_values, settled, unseen_result
from batchyard.service.providers.remote.create import Creating
from batchyard.service.providers.remote.deployment_api import DeploymentApi, is_missing_route, is_unreadable
from batchyard.service.providers.remote.early_looks import EarlyLooks
from batchyard.service.providers.remote.fields import identifier
from batchyard.service.registry.deployment import RemoteRegistry
from batchyard.service.upstream.client import UpstreamClient

_RESULTS = ("output_file_id", "error_file_id")
_PAGES = 5
_MOST_SINGLY = 20  # batches that a round asks for one by one

_log = logging.getLogger("batchyard.follower")


class Follower:
    """Looks every `poll_seconds` of the dialect while a batch is live or a creation is in doubt, and `early` too."""

    def __init__(
        self,
        client: UpstreamClient,
        dialect: OpenAI,
        registry: RemoteRegistry,
        creating: Creating,
        clock: Callable[[], float],
        early: EarlyLooks,
    ) -> None:
        self._api = DeploymentApi(client, dialect)
        self._dialect = dialect
        self._registry = registry
        self._creating = creating
        self._clock = clock
        self._early = early
        self._name, self._deployment = client.deployment.provider, client.deployment.name
        self._woken = asyncio.Event()
        self._round = asyncio.Lock()
        self._last = -dialect.poll_seconds

    def running(self) -> AbstractAsyncContextManager[None]:
        """Looks until the context ends."""
        return in_background(self._loop())

    def wake(self) -> None:
        """There is something to follow."""
        self._woken.set()

    def created(self, batch: BatchRecord) -> None:
        """There is a batch more to follow."""
        self._early.created(batch.seq)
        self.wake()

    async def refresh(self, tenant: str) -> bool:
        """Looks at once for a tenant that has live batches, though not twice in `poll_seconds`; False: it has none."""
        if not await self._registry.live(tenant):
            return False
        asked = asyncio.get_running_loop().time()
        async with self._round:
            if self._last < asked - self._dialect.poll_seconds:
                with suppress(Refused):  # then what is known must do
                    await self._look()
        return True

    async def seen(self, batch: BatchRecord, members: Members, *, news: bool = False) -> BatchRecord:
        """Registers what the deployment said of a batch, with the result files that it names; or only `news`.

        `members` are in OpenAI's form. Raises Refused where it can't be asked for these.
        """
        now = int(self._clock())
        values, results = settled(batch_values(members, now, batch), batch.status), {}
        same = structs.replace(batch, observed_at=now) if news else None
        if same and all(getattr(same, column) == value for column, value in values.items()):
            return same
        for column in _RESULTS:
            named = members.get(column)
            if named and getattr(batch, column) is None:
                row = await self._result(named, batch, column, now, failed=values["failed"])
                if row is not None:
                    results[column] = row
        return await self._registry.observe(batch, values, results)

    async def _result(
        self, named: str, batch: BatchRecord, column: str, now: int, *, failed: int
    ) -> dict[str, Any] | None:
        """Columns of a result file; none for an error file that says that there were no errors, where none failed."""
        try:
            members = await self._api.file(named)
        except Refused as error:
            if not (is_missing_route(error) or is_unreadable(error)):
                raise
            return unseen_result(named, batch.id, column, self._name, now)
        if column == "error_file_id" and not failed and self._dialect.no_errors(members):
            return None
        return file_values(members, self._name, now) | {"native_id": named}

    async def _loop(self) -> None:
        while True:
            self._woken.clear()
            try:
                follows = await self._follow()
            except Refused as error:
                follows = True
                _log.warning("a deployment can't be asked", extra={"deployment": error.upstream.deployment})
            except Exception:
                follows = True
                _log.exception("a look at a deployment failed, will try again")
            await (self._rest() if follows else self._woken.wait())

    async def _follow(self) -> bool:
        """One round, if there is something to follow. Raises Refused."""
        if not (await self._registry.live() or await self._registry.intents()):
            return False
        self._early.passed()
        async with self._round:
            await self._look()
        return True

    async def _rest(self) -> None:
        """Waits for the next round, and looks early where creations ask for it."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._dialect.poll_seconds
        while (left := ends - loop.time()) > 0:
            due = self._early.wait()
            if due == 0:
                await self._glance()
                continue
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left if due is None else min(left, due)):
                    await self._woken.wait()

    async def _glance(self) -> None:
        """One list, asked for one time: it shows the newest batches first."""
        self._early.taken()
        try:
            async with self._round:
                waiting: dict[str | None, BatchRecord]
                waiting = {batch.native_id: batch for batch in await self._registry.live()}
                if waiting:
                    for entry in await self._api.newest_batches():
                        await self._look_at_entry(waiting, entry)
        except BatchyardError:
            _log.info("a deployment can't be asked early", extra={"deployment": self._deployment})
        except Exception:
            _log.exception("an early look at a deployment failed, the next round will try again")

    async def _look(self) -> None:
        """One round: a list as far as it shows live batches, then those that it did not show, one by one."""
        self._last = asyncio.get_running_loop().time()
        with suppress(Refused):  # what it lists is read below, where a batch needs it
            await self._creating.settle()
        waiting = {batch.native_id: batch for batch in await self._registry.live()}
        if waiting:
            await self._look_at_list(waiting)
        for batch in sorted(waiting.values(), key=lambda batch: batch.observed_at or 0)[:_MOST_SINGLY]:
            with self._one(batch):
                await self.seen(batch, await self._api.batch(batch.native_id or ""))

    async def _look_at_list(self, waiting: dict[str | None, BatchRecord]) -> None:
        """Takes those out of `waiting` that a list shows. Where the deployment has no list, none are."""
        try:
            async with aclosing(self._api.batches(_PAGES)) as pages:
                async for entries in pages:
                    for entry in entries:
                        await self._look_at_entry(waiting, entry)
                    if not waiting:
                        return
        except Refused as error:
            if not (is_missing_route(error) or is_unreadable(error)):
                raise

    async def _look_at_entry(self, waiting: dict[str | None, BatchRecord], entry: Members) -> None:
        batch = waiting.get(identifier(entry.get("id")))
        if batch is None:
            return
        with self._one(batch):
            members = self._api.read_batch(entry)
            if members and members.get("status"):  # else it is asked for by itself
                del waiting[batch.native_id]
                await self.seen(batch, members)

    @contextmanager
    def _one(self, batch: BatchRecord) -> Iterator[None]:
        """What goes wrong with one batch does not keep the others from being looked at."""
        try:
            yield
        except Refused as error:
            told = {"batch": batch.id, "http_status": error.upstream.http_status}
            _log.warning("a batch can't be looked at, will try again", extra=told)
        except Exception as error:  # its text may quote what the provider said
            told = {"batch": batch.id, "error": type(error).__name__}
            _log.error("a look at a batch failed, will try again", extra=told)
