"""Creating a batch at a deployment, at most once: what is asked for is written down before, and looked for after.

An answer that is lost leaves the intent behind, and the caller is told not to repeat; the follower settles it, after
a restart too.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from batchyard.service.errors import Refused, Unsure
from batchyard.service.providers.base import NewBatch
from batchyard.service.providers.objects import MARK, batch_values, native_id, unfinished
from batchyard.service.providers.openai import OpenAI
from batchyard.service.registry.records import BatchRecord
from batchyard.service.registry.remote import Intent, RemoteRegistry
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.usage import Reckoned
from batchyard.service.requests import MOST_METADATA
from batchyard.service.settings import Limits
from batchyard.service.upstream.client import LOST, UpstreamClient

_SKEW_SECONDS = 60  # between our clock and a deployment's
_LOOK_AFTER = (0.2, 1.0)  # seconds after a lost answer
_PAGES = 100
_UNSURE = (
    "The provider did not answer: the batch may or may not have been created. It is listed as soon as it is found."
)


class Creating:
    """Creations at one deployment."""

    def __init__(
        self,
        client: UpstreamClient,
        dialect: OpenAI,
        registry: RemoteRegistry,
        limits: Limits,
        provider: str,
        doubt_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """A batch is looked for during `doubt_seconds`; after that it is sure that none was made."""
        self._client = client
        self._dialect = dialect
        self._registry = registry
        self._limits = limits
        self._provider = provider
        self._doubt_seconds = doubt_seconds
        self._clock = clock
        self._running: dict[str, asyncio.Future[BatchRecord]] = {}

    async def run(self, owner: TenantRegistry, new: NewBatch, native_input: str, reckoned: Reckoned) -> BatchRecord:
        """The batch. Raises Refused, Unsure, Busy, and AlreadyExists for an idempotency key of another request."""
        once = new.once(self._provider, int(self._clock()))
        intent = self._intent(owner, new, native_input, reckoned)
        if once:
            intent = intent._replace(key=once.key, digest=once.digest)
        begun = await self._registry.begin(owner, intent, once, self._limits.batch_rate)
        if isinstance(begun, BatchRecord):
            return begun
        if begun.id in self._running:  # the same request, at the same time
            return await asyncio.shield(self._running[begun.id])
        if begun.id != intent.id:  # ... or earlier, and nobody knows what became of it
            return await self._looked_for(begun, Unsure(_UNSURE))
        return await self._asked(intent, new)

    async def settle(self) -> None:
        """Looks for the batches of intents that nobody waits for."""
        for intent in await self._registry.intents():
            with suppress(Unsure):
                if intent.id not in self._running:
                    await self._settled(intent)

    async def made(self, owner: TenantRegistry, key: str) -> BatchRecord | None:
        """The batch that was created under an idempotency key; None: it is sure that none was.

        Raises Unsure while that is open, Refused where the deployment can't be asked.
        """
        found = await self._registry.under(owner, key)
        if not isinstance(found, Intent):
            return found
        if found.id in self._running:
            return await asyncio.shield(self._running[found.id])
        return await self._settled(found)

    async def _settled(self, intent: Intent) -> BatchRecord | None:
        """The batch of an intent; None: there is none, and the intent is gone. Raises Unsure as long as it is open."""
        late = intent.created_at < min(self._clock(), self._registry.expiry()) - self._doubt_seconds
        batch = await self._found(intent)
        if batch is None and not late:
            raise Unsure(_UNSURE)
        if batch is None:
            await self._registry.drop(intent)
        return batch

    async def _asked(self, intent: Intent, new: NewBatch) -> BatchRecord:
        future = self._running[intent.id] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # mostly nobody else asks
        try:
            batch = await self._ask(intent, new)
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else Unsure(_UNSURE))
            raise
        else:
            future.set_result(batch)
            return batch
        finally:
            del self._running[intent.id]

    async def _ask(self, intent: Intent, new: NewBatch) -> BatchRecord:
        metadata = {**new.metadata, **({MARK: intent.id} if intent.request["marked"] else {})}
        body = self._dialect.create(new, intent.request["source"].get("input_file_id", ""))
        try:
            answer = await self._client.once(
                "batches", "/batches", {**body, **({"metadata": metadata} if metadata else {})}
            )
            if not native_id(answer):
                raise Unsure("The provider's answer names no id.")
        except Unsure:
            return await self._looked_for(intent, Unsure(_UNSURE))
        except Refused as error:
            if error.upstream.http_status in LOST:
                error.reason = "UNSURE"
                return await self._looked_for(intent, error)
            await self._registry.drop(intent)
            raise
        return await self._complete(intent, answer)

    async def _looked_for(self, intent: Intent, error: Unsure | Refused) -> BatchRecord:
        for seconds in _LOOK_AFTER:
            await asyncio.sleep(seconds)
            with suppress(Refused, Unsure):  # then the follower looks
                if found := await self._found(intent):
                    return found
        raise error

    async def _found(self, intent: Intent) -> BatchRecord | None:
        """The batch that came of an intent, if the deployment lists one among those since.

        Raises Refused where it can't be asked, Unsure where it lists too many.
        """
        after: dict[str, str] = {}
        earliest = intent.created_at - _SKEW_SECONDS
        for _ in range(_PAGES):
            answer = await self._client.read("batches", "/batches", {"limit": "100", **after})
            entries, more = self._dialect.page(answer)
            known = set() if intent.request["marked"] else await self._registry.known(map(native_id, entries))
            for entry in entries:
                if native_id(entry) and self._is_of(intent, entry) and native_id(entry) not in known:
                    return await self._complete(intent, entry)
            if not more or not entries or self._created_at(entries[-1]) < earliest:
                return None
            after = {"after": native_id(entries[-1])}
        raise Unsure(_UNSURE)

    def _is_of(self, intent: Intent, entry: Mapping[str, Any]) -> bool:
        """By our mark; without one, by its input and its time."""
        metadata = entry.get("metadata")
        if intent.request["marked"]:
            return isinstance(metadata, dict) and metadata.get(MARK) == intent.id
        members = self._dialect.batch(dict(entry))
        source = {name: members.get(name) for name in intent.request["source"]}
        same = source == intent.request["source"] and (metadata or {}) == intent.request["metadata"]
        return same and self._created_at(entry) >= intent.created_at - _SKEW_SECONDS

    def _created_at(self, entry: Mapping[str, Any]) -> int:
        return int(self._dialect.batch(dict(entry)).get("created_at") or 0)

    async def _complete(self, intent: Intent, answer: Mapping[str, Any]) -> BatchRecord:
        values = unfinished(batch_values(self._dialect.batch(dict(answer)), int(self._clock())))
        batch = await self._registry.complete(intent, native_id(answer), values)
        if batch.tenant != intent.tenant:  # adopted meanwhile, or the provider's own fault
            raise Unsure("The provider's answer names a batch that was there before.")
        return batch

    def _intent(self, owner: TenantRegistry, new: NewBatch, native_input: str, reckoned: Reckoned) -> Intent:
        source = self._dialect.source(new, native_input)
        source.pop("output_folder", None)  # which does not come back
        request = {
            "source": source,
            "marked": len(new.metadata) < MOST_METADATA and not new.input_blob,
            "provider": self._provider,
            "endpoint": new.endpoint,
            "input_file_id": new.input_file_id,
            "completion_window": new.completion_window,
            "metadata": new.metadata,
            "output_seconds": new.output_seconds or 0,
            "key_id": owner.key_id,
            **reckoned.columns,
        }
        name = uuid4().hex
        deployment = self._client.deployment.name
        return Intent(name, owner.tenant, deployment, request, None, None, int(self._clock()))
