"""One shard's way: to its deployment, through it, and back as results.

What may have started something there is written down before. Nothing is asked for twice as long as it is not sure
that the first asking came to nothing, and a shard that was accepted moves only when its deployment says it has ended.
"""

import asyncio
import logging
from contextlib import aclosing, suppress

import msgspec

from batchyard.service.background import until
from batchyard.service.domain.records import ENDED, BatchRecord, ChunkRecord, Counts, FileRecord, PlacementRecord
from batchyard.service.engine.control import Control, Drained
from batchyard.service.errors import (
    BatchyardError,
    FailedPrecondition,
    InvalidArgument,
    Late,
    LeaseLost,
    NotFound,
    Refused,
    Unavailable,
    Unsure,
    Unusable,
)
from batchyard.service.groups.context import Context, Work
from batchyard.service.groups.failures import ShardRequeued, by_line, failure, refusal, whole
from batchyard.service.groups.janitor import input_name
from batchyard.service.groups.member import GroupMember
from batchyard.service.groups.result_collector import CollectRequest, Interrupted, Lost, Source
from batchyard.service.jsonl.line_blocks import whole_lines
from batchyard.service.jsonl.result_reader import RESULT_MISSING
from batchyard.service.jsonl.results import CANCELLED, EXPIRED, Failure
from batchyard.service.jsonl.rewriter import Rewriter
from batchyard.service.providers.base import FileDescription, NewBatch, Span

_log = logging.getLogger("batchyard.groups")

_AGAIN_SECONDS = (0.25, 30.0)
_STOPPED_TIMES = 6  # harvest_seconds in which the results of a stopped batch can be read
_CANCELLED_THERE = Failure(CANCELLED.code, "This part of the batch was cancelled at its provider.")
_BEGUN = {"in_progress", "finalizing", "completed"}


class ShardAbandoned(Exception):
    """It is too late to wait for word from the deployment."""


class Shard:
    """Runs one placed shard until its results are sealed, from wherever an earlier process left it."""

    def __init__(
        self, context: Context, work: Work, group_member: GroupMember, placed: PlacementRecord, chunk: ChunkRecord
    ) -> None:
        self._context = context
        self._work = work
        self._member = group_member
        self._provider = group_member.provider
        self._placed = placed
        self._chunk = chunk
        self._failures = 0
        self._cancels = 0
        self._cancel_at = 0.0
        self._stopped_at: float | None = None

    async def run(self) -> None:
        """Raises Moved where nothing came of it, which has been forgotten then; Drained, LeaseLost, StorageFull."""
        shard: BatchRecord | None = None
        refused: Failure | None = None
        try:
            shard = await self._followed(await self._submitted())
            if shard.status == "failed" and (moved := failure(shard)) and not await self._ran(shard):
                raise moved
        except ShardRequeued as moved:
            if not moved.unfit or self._work.refused(self._member, moved.why):
                await self._forget(moved)
                raise
            if shard is None:
                refused = Failure("no_deployment", f"No deployment takes them. The last one said: {moved.why}")
        except Unusable as error:  # it may run there, so it must not run elsewhere
            refused = Failure("invalid_response", error.message)
        except ShardAbandoned:
            _log.warning("a shard is given up", extra={"batch": self._work.batch.id, "shard": self._placed.n})
        await self._note(open=0, **({"status": shard.status} if shard else {}))
        await self._remove_input()
        await self._harvest(shard, refused)

    async def _submitted(self) -> BatchRecord:
        """The batch at the deployment, made now or before. Raises Moved where there is none and won't be."""
        if self._placed.shard_id:
            return await self._context.internal.get_batch(self._placed.shard_id)
        shard = await self._looked_for() if self._placed.asked else None
        while shard is None:
            shard = await self._created()
        await self._note(shard_id=shard.id, native_id=shard.native_id, status=shard.status)
        return shard

    async def _looked_for(self) -> BatchRecord | None:
        """What came of an asking without an answer; None where it is sure that nothing did. Raises _Given, Unusable."""
        while True:
            self._check_late()
            try:
                return await self._provider.made(self._context.internal, self._key())
            except Unusable:
                raise
            except (Unsure, Refused):
                await self._pause("nobody knows whether it was created")

    async def _created(self) -> BatchRecord | None:
        """The batch, None where an answer was lost and nothing came of it. Raises Moved."""
        file = await self._processed(await self._sent())
        self._check_on()
        await self._note_asking()
        batch, internal = self._work.batch, self._context.internal
        new = NewBatch(file.id, batch.endpoint, batch.completion_window, self._metadata(), key=self._key())
        try:
            return await self._context.mutations.run(self._provider.create_batch(internal, new, file))
        except (Unsure, Refused) as error:
            if error.reason == "UNSURE":
                return await self._looked_for()
            raise refusal(error) from error

    async def _processed(self, file_id: str) -> FileRecord:
        """The input, when the deployment can use it; at once where it does not say when that is."""
        loop, internal = asyncio.get_running_loop(), self._context.internal
        end = loop.time() + self._context.settings.pending_seconds
        try:
            file = await internal.get_file(file_id)
            while self._provider.waits_for_files:
                file = await self._provider.file(internal, file)
                if file.status != "uploaded":
                    break
                self._check_on()
                if loop.time() > end:
                    raise ShardRequeued("its file was not processed in time")
                await self._pause("its file is not processed yet")
        except (Refused, NotFound) as error:
            raise ShardRequeued(error.message, logged="its file can't be looked at") from error
        if file.status == "error":
            why = f"its file could not be processed: {file.status_details or 'nobody says why'}"
            raise ShardRequeued(why, unfit=True, logged="its file could not be processed")
        return file

    async def _sent(self) -> str:
        """The id of the input at the deployment, which is sent there where it isn't yet."""
        if self._placed.file_id:
            return self._placed.file_id
        async with self._context.transfers.sending(self._provider.place):
            if not self._member.ready:
                before = self._member.refusal or "it can't be reached"
                raise ShardRequeued(before, unasked=True, logged="its member is not ready")
            try:
                file_id = await self._send()
            except BaseException as error:
                self._context.suspect(self._provider.place)
                if isinstance(error, Refused | Unsure | Late | InvalidArgument):
                    raise refusal(error) from error
                raise
        await self._note(file_id=file_id)
        return file_id

    async def _send(self) -> str:
        member, chunk, batch = self._member.member, self._chunk, self._work.batch
        rewrite = Rewriter(self._work.group, member.model, prefixed=self._provider.name == "openai")
        described = FileDescription("batch", input_name(batch.id, chunk.n), content_type="application/jsonl")
        content = self._context.store.read(self._work.parts, chunk.start, chunk.end - chunk.start)
        async with self._provider.upload(self._context.internal, described) as upload:
            async with aclosing(whole_lines(content, chunk.end - chunk.start)) as blocks:
                async for block in blocks:
                    self._check_on()
                    await upload.write(await self._context.read(rewrite, block))
            return (await upload.finish(described, None)).id

    def _check_on(self) -> None:
        if self._work.control.drained:
            raise Drained
        if not self._work.control.go_on():
            raise ShardRequeued("it was stopped before it was submitted")

    async def _followed(self, shard: BatchRecord) -> BatchRecord:
        """The batch when it has ended there. Raises _Given."""
        shown = None
        with self._context.changes.watching(shard.seq) as changed:
            while True:
                changed.clear()
                shard = await self._context.internal.get_batch(shard.id)
                if (shard.status, shard.completed, shard.failed) != shown:
                    shown = (shard.status, shard.completed, shard.failed)
                    await self._show(shard)
                if shard.status in ENDED:
                    return shard
                self._check_late()
                if self._work.control.reason and shard.status != "cancelling":
                    await self._cancel(shard)
                await nap(self._work.control, _AGAIN_SECONDS[1], changed)

    async def _ran(self, shard: BatchRecord) -> bool:
        """Whether a batch that counts no line has run some all the same: it has results, or used tokens."""
        if shard.input_tokens or shard.output_tokens:
            return True
        for file_id in filter(None, (shard.output_file_id, shard.error_file_id)):
            with suppress(NotFound):
                if (await self._context.internal.get_file(file_id)).bytes:
                    return True
        return False

    async def _show(self, shard: BatchRecord) -> None:
        if shard.status in _BEGUN:
            await self._work.begin()
            if self._placed.status not in _BEGUN:
                self._member.worked((await self._context.standing(self._member)).tokens)
        if shard.status != self._placed.status:
            await self._note(status=shard.status)
        if shard.completed or shard.failed:
            names = msgspec.structs.fields(Counts)
            counts = Counts(*(getattr(shard, field.name) for field in names))
            try:
                await self._context.work.publish(self._chunk, counts)
            except Exception:  # the next change shows it, and other shards of the batch must not be broken off
                _log.exception("progress can't be shown, the shard goes on", extra={"batch": self._work.batch.id})

    async def _cancel(self, shard: BatchRecord) -> None:
        """Asks the deployment; where it can't be asked now, it is asked again later and later."""
        now = asyncio.get_running_loop().time()
        if now < self._cancel_at:
            return
        least, most = _AGAIN_SECONDS
        self._cancels += 1
        self._cancel_at = now + min(most, least * 2 ** min(self._cancels, 16))
        with suppress(FailedPrecondition, Refused, Unsure, Unavailable):
            await self._provider.cancel_batch(self._context.internal, shard)

    def _check_late(self) -> None:
        """Raises _Given when the batch's window has long ended, or was cancelled long ago at a dead deployment."""
        patience, now = self._context.settings.harvest_seconds, asyncio.get_running_loop().time()
        if self._work.control.reason and self._stopped_at is None:
            self._stopped_at = now
        dead = self._stopped_at is not None and now > self._stopped_at + patience and not self._provider.available
        if dead or self._context.expiry() > self._work.batch.expires_at + patience:
            raise ShardAbandoned

    async def _harvest(self, shard: BatchRecord | None, refused: Failure | None) -> None:
        """Seals what results there are; of a shard that was refused or given up there are none.

        Results that the deployment counts and does not show yet are waited for, though not for ever.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._context.settings.harvest_seconds
        while True:
            stopped = self._work.control.reason
            wanted = CollectRequest(self._work.batch.id, self._work.group, self._work.parts, self._chunk, stopped)
            rest = stopped or refused or (_rest(shard) if shard else EXPIRED)
            try:
                async with self._context.transfers.fetching():
                    sources = await self._sources(shard, complete=loop.time() < end) if shard else []
                    until = loop.time() + self._patience()
                    await self._context.harvest.gather(wanted, sources, self._lost(shard, rest), until)
            except Interrupted:
                try:
                    self._check_late()
                except ShardAbandoned:
                    shard = None
                else:
                    await self._pause("its results are not all there")
            else:
                return

    def _patience(self) -> float:
        """Seconds in which results have to come; those of a batch that was stopped keep it from its end no longer."""
        patience, left = self._context.settings.harvest_seconds, self._work.batch.expires_at - self._context.expiry()
        return _STOPPED_TIMES * patience if self._work.control.reason else patience + max(0.0, left)

    def _lost(self, shard: BatchRecord | None, rest: Failure) -> Lost:
        failures = by_line(shard) if shard else {}

        def lost(line: int) -> tuple[Failure, bool]:
            found = failures.get(line - self._chunk.first_line + 1)
            return (found, True) if found else (rest, rest not in {CANCELLED, EXPIRED})

        return lost

    async def _sources(self, shard: BatchRecord, *, complete: bool) -> list[Source]:
        """The files of results; `complete` is whether they must have as many as the deployment counts."""
        internal, found = self._context.internal, []
        files = ((shard.output_file_id, True, shard.completed), (shard.error_file_id, False, shard.failed))
        for file_id, succeeded, count in files:
            if file_id:
                try:
                    file = await internal.get_file(file_id)
                except NotFound:  # it has expired since
                    continue
                opened = lambda file=file: self._provider.content(internal, file, Span())  # noqa: E731
                found.append(Source(opened, succeeded, count if complete else 0))
        return found

    async def _forget(self, moved: ShardRequeued) -> None:
        """Tells the member what it taught, and gives the lines back."""
        if moved.full:
            held = await self._context.standing(self._member)
            self._member.full(moved.why, self._placed.tokens, max(0, held.tokens - self._placed.tokens))
        elif not (moved.unfit or moved.unasked or self._work.control.reason):
            self._member.refused(moved.why, moved.hint)
        await self._context.placements.dissolve(self._work.batch, self._placed.n)
        await self._remove_input()

    async def _remove_input(self) -> None:
        """Where that fails, the cleaner does it later."""
        if self._placed.file_id:
            with suppress(BatchyardError):
                file = await self._context.internal.get_file(self._placed.file_id)
                await self._provider.delete(self._context.internal, file)

    async def _note(self, **values: object) -> None:
        self._failures = 0
        self._placed = await self._context.placements.update(self._work.batch, self._placed, **values)

    async def _note_asking(self) -> None:
        """Raises ShardRequeued where the batch was cancelled meanwhile, though nobody told us yet."""
        self._failures = 0
        try:
            self._placed = await self._context.placements.begin_asking(self._work.batch, self._placed)
        except LeaseLost:
            await self._work.check_stopped()
            self._check_on()
            raise

    async def _pause(self, why: str) -> None:
        """A while before another try."""
        _log.debug("a shard waits", extra={"batch": self._work.batch.id, "shard": self._placed.n, "why": why})
        least, most = _AGAIN_SECONDS
        self._failures += 1
        await nap(self._work.control, min(most, least * 2 ** min(self._failures - 1, 16)))

    def _key(self) -> str:
        """By this the deployment's batch is found again: an input is used once."""
        return f"{self._work.batch.id}:{self._placed.file_id}"

    def _metadata(self) -> dict[str, str]:
        """For those who look at the provider's own pages."""
        return {"batchyard_batch": self._work.batch.id, "batchyard_shard": str(self._placed.n)}


async def nap(control: Control, seconds: float, event: asyncio.Event | None = None) -> None:
    """Waits until `event`, or so long; not so long once the batch is stopped. Raises Drained."""
    event = event or asyncio.Event()
    if control.go_on():
        await control.first(until(event, seconds))
    elif not control.drained:
        await until(event, min(seconds, 1.0))
    if control.drained:
        raise Drained


def _rest(shard: BatchRecord) -> Failure:
    """What to say of lines that an ended batch has no result for."""
    match shard.status:
        case "failed":
            return whole(shard)
        case "cancelled":
            return _CANCELLED_THERE
        case "expired":
            return EXPIRED
        case _:
            return RESULT_MISSING
