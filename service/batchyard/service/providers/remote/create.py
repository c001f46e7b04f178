"""Creating a batch at a deployment, at most once: what is asked for is written down before, and looked for after.

An answer that is lost leaves the intent behind, and the caller is told not to repeat; the follower settles it, after
a restart too. An answer that says that it was done, and can't be read, is no sign that nothing was: it is never asked
for again.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from batchyard.service.config.settings import Limits
from batchyard.service.domain.names import INTERNAL, MOST_METADATA
from batchyard.service.domain.records import BatchRecord, FileRecord
from batchyard.service.errors import Refused, Unsure, Unusable
from batchyard.service.providers.base import NewBatch
from batchyard.service.providers.openai.dialect import Members, OpenAI
from batchyard.service.providers.remote.columns import MARK, batch_values, unfinished
from batchyard.service.providers.remote.deployment_api import DeploymentApi, is_missing_route
from batchyard.service.providers.remote.fields import identifier, seconds
from batchyard.service.registry.deployment import Intent, RemoteRegistry
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.usage import UsageEstimate
from batchyard.service.upstream.client import LOST, UpstreamClient

_SKEW_SECONDS = 60  # between our clock and a deployment's
_LOOK_AFTER = (0.2, 1.0)  # seconds after a lost answer
_PAGES = 100
_FORGET_SECONDS = 2 * 86_400  # after which nobody asks: no window is longer, and no idempotency key is kept so long
_UNSURE = (
    "The provider did not answer: the batch may or may not have been created. It is listed as soon as it is found."
)
_UNUSABLE = (
    "The provider accepted the batch, but its answer does not say which one it is. It may run there; it is not created "
    "again."
)

_NAMELESS, _UNREADABLE = "nameless", "unreadable"  # answers that say that a batch was made, and not which

_log = logging.getLogger("batchyard.creating")


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
        self._api = DeploymentApi(client, dialect)
        self._dialect = dialect
        self._registry = registry
        self._limits = limits
        self._provider = provider
        self._doubt_seconds = doubt_seconds
        self._clock = clock
        self._running: dict[str, asyncio.Future[BatchRecord]] = {}

    async def run(
        self, owner: TenantRegistry, new: NewBatch, native_input: str, file: FileRecord | None
    ) -> BatchRecord:
        """The batch over `file`, which the deployment knows as `native_input`; over none where it reads a blob.

        Raises Refused, Unsure, Busy, AlreadyExists for an idempotency key of another request, and NotFound where `file`
        was deleted meanwhile.
        """
        once = new.once(self._provider, int(self._clock()))
        intent = self._intent(owner, new, native_input, UsageEstimate.over(file))
        if once:
            intent = intent._replace(key=once.key, digest=once.digest)
        begun = await self._registry.begin(owner, intent, once, self._limits.batch_rate, file)
        if isinstance(begun, BatchRecord):
            return begun
        if begun.id in self._running:  # the same request, at the same time
            return await asyncio.shield(self._running[begun.id])
        if begun.id != intent.id:  # ... or earlier, and nobody knows what became of it
            return await self._looked_for(begun, Unsure(_UNSURE))
        return await self._asked(intent, new)

    async def settle(self) -> None:
        """Looks for the batches of intents that nobody waits for. Raises Refused where the list can't be had."""
        for intent in await self._registry.intents():
            if intent.id in self._running:
                continue
            if intent.created_at < self._clock() - _FORGET_SECONDS:
                await self._registry.drop(intent)
            elif not (self._is_late(intent) and _is_kept(intent)):  # nothing new is to come
                with suppress(Unsure):
                    await self._settled(intent)

    async def made(self, owner: TenantRegistry, key: str) -> BatchRecord | None:
        """The batch that was created under an idempotency key; None: it is sure that none was.

        Raises Unsure while that is open, Unusable where it stays so, Refused where the deployment can't be asked.
        """
        found = await self._registry.under(owner, key)
        if not isinstance(found, Intent):
            return found
        if found.id in self._running:
            return await asyncio.shield(self._running[found.id])
        return await self._settled(found)

    async def _settled(self, intent: Intent) -> BatchRecord | None:
        """The batch of an intent; None: there is none, and the intent is gone. Raises Unsure as long as it is open."""
        late, kept = self._is_late(intent), _is_kept(intent)
        try:
            batch = await self._found(intent)
        except Refused as error:
            if late and kept and is_missing_route(error):
                raise Unusable(_UNUSABLE) from None
            raise
        if batch is None and not late:
            raise Unsure(_UNSURE)
        if batch is None and kept:
            raise Unusable(_UNUSABLE)
        if batch is None:
            await self._registry.drop(intent)
        return batch

    def _is_late(self, intent: Intent) -> bool:
        """Whether a list would show the batch by now."""
        return intent.created_at < min(self._clock(), self._registry.expiry()) - self._doubt_seconds

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
        except Unusable:
            return await self._looked_for(await self._registry.answered(intent, _UNREADABLE), Unsure(_UNUSABLE))
        except Unsure:
            return await self._looked_for(intent, Unsure(_UNSURE))
        except Refused as error:
            if error.upstream.http_status in LOST:
                error.reason = "UNSURE"
                return await self._looked_for(intent, error)
            await self._registry.drop(intent)
            raise
        try:
            return await self._registered(intent, answer)
        except Unusable:
            return await self._looked_for(await self._registry.answered(intent, _NAMELESS), Unsure(_UNUSABLE))
        except Unsure:
            return await self._looked_for(intent, Unsure(_UNSURE))

    async def _registered(self, intent: Intent, answer: Members) -> BatchRecord:
        """The batch that an answer names. Raises Unusable where it names none, or one that was asked for otherwise."""
        metadata = answer.get("metadata")
        marked = metadata.get(MARK, intent.id) if isinstance(metadata, dict) else intent.id
        members = self._api.read_batch(answer)
        if members is None or marked != intent.id:
            raise Unusable(_UNUSABLE)
        if _mark(answer) is None and await self._registry.known([members["id"]]):  # it was there before
            raise Unusable(_UNUSABLE)
        try:
            return await self._complete(intent, members)
        except Unsure:
            raise
        except Exception as error:  # whatever it is: the batch is there
            raise Unsure(_UNSURE) from error

    async def _looked_for(self, intent: Intent, error: Unsure | Refused) -> BatchRecord:
        for pause in _LOOK_AFTER:
            await asyncio.sleep(pause)
            try:
                if found := await self._found(intent):
                    return found
            except (Refused, Unsure):
                continue  # then the follower looks
            except Exception as failure:
                _log.warning("a lost batch can't be looked for", extra={"error": type(failure).__name__})
        raise error

    async def _found(self, intent: Intent) -> BatchRecord | None:
        """The batch that came of an intent, if the deployment lists one among those since.

        It is known by our mark, whatever its id. That is a label, which not every provider keeps: where none of all
        that it lists has any, and for an intent without a mark, likeness has to do.

        Raises Refused where it can't be asked, Unsure where it lists too many.
        """
        pages, earliest, marked = 0, intent.created_at - _SKEW_SECONDS, intent.request["marked"]
        alike, labelled = None, False
        async for entries in self._api.batches(_PAGES):
            pages += 1
            if entry := next((one for one in entries if _mark(one) == intent.id), None):
                return await self._complete(intent, self._named(entry))
            alike = alike or await self._alike(intent, entries)
            labelled = labelled or any(entry.get("metadata") for entry in entries)
            if (alike and not marked) or (entries and self._all_before(earliest, entries)):
                break
        else:
            if pages == _PAGES:
                raise Unsure(_UNSURE)
        if alike is None or (marked and labelled):  # where labels are kept, our mark would be
            return None
        return await self._complete(intent, self._named(alike))

    async def _alike(self, intent: Intent, entries: list[Members]) -> Members | None:
        """The first of a list that is like an intent and not registered."""
        alike = [entry for entry in entries if self._is_alike(intent, entry)]
        known = await self._registry.known(identifier(entry.get("id")) for entry in alike) if alike else set()
        return next((entry for entry in alike if identifier(entry.get("id")) not in known), None)

    def _named(self, entry: Members) -> Members:
        """A list's entry in OpenAI's form. Raises Unusable where it can't be asked for."""
        members = self._api.read_batch(entry)
        if members is None:
            raise Unusable(_UNUSABLE)
        return members

    def _is_alike(self, intent: Intent, entry: Members) -> bool:
        """Whether an entry has the intent's input, its labels unless they were marked, and its time if it tells one."""
        members = self._dialect.batch(entry)
        source = {name: members.get(name) for name in intent.request["source"]}
        labels = {} if intent.request["marked"] else intent.request["metadata"]
        same = source == intent.request["source"] and (members.get("metadata") or {}) == labels
        created_at = members.get("created_at")
        return same and (created_at is None or created_at >= intent.created_at - _SKEW_SECONDS)

    def _all_before(self, earliest: int, entries: list[Members]) -> bool:
        """Whether what follows a page is older still: all of it is from before `earliest`, and not the oldest first."""
        told = (seconds(entry.get("created_at")) for entry in entries)
        times = [created_at for created_at in told if created_at is not None]
        return bool(times) and max(times) < earliest and times[0] >= times[-1]

    async def _complete(self, intent: Intent, members: Members) -> BatchRecord:
        values = unfinished(batch_values(members, int(self._clock())))
        batch = await self._registry.complete(intent, members["id"], values)
        if batch.tenant != intent.tenant:  # adopted meanwhile, or the provider's own fault
            raise Unsure("The provider's answer names a batch that was there before.")
        return batch

    def _intent(self, owner: TenantRegistry, new: NewBatch, native_input: str, estimate: UsageEstimate) -> Intent:
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
            **estimate.columns,
        }
        name = uuid4().hex
        deployment = self._client.deployment.name
        return Intent(name, owner.tenant, deployment, request, None, None, int(self._clock()))


def _is_kept(intent: Intent) -> bool:
    """Whether it stands for a batch that was made, though no list shows it.

    That is so where an object answered. A page may be a proxy's, so that a caller may ask again in the end; a group
    does not, since it would be at it all day.
    """
    answered = intent.request.get("answered")
    return answered == _NAMELESS or (answered is not None and intent.tenant == INTERNAL)


def _mark(entry: Members) -> str | None:
    metadata = entry.get("metadata")
    return metadata.get(MARK) if isinstance(metadata, dict) else None
