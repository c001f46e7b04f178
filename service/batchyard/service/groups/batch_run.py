"""A group's batch from its checked input to results for every line."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from batchyard.service.background import until
from batchyard.service.config.settings import Member
from batchyard.service.domain.records import BatchRecord, ChunkRecord, Part, PlacementRecord, Status
from batchyard.service.engine.control import Control, Drained, tasks
from batchyard.service.errors import DataLoss, LeaseLost, StorageFull
from batchyard.service.groups.context import Context
from batchyard.service.groups.failures import ShardRequeued
from batchyard.service.groups.member import GroupMember
from batchyard.service.groups.placement import Misfit, choose, size_of, unplaced
from batchyard.service.groups.queue import FairQueue
from batchyard.service.groups.result_collector import CollectRequest
from batchyard.service.groups.shard import Shard, nap
from batchyard.service.jsonl.results import EXPIRED, Failure
from batchyard.service.jsonl.scanner import Chunk, Scan
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.service.registry.placements import NewPlacement, Standing

_LOOK_SECONDS = 5.0  # how often a batch that waits asks again without being told
_LONG_SECONDS = 3600.0
_SOON_SECONDS = 0.01
_IN_LINE = "waiting for its turn: older batches of the group come first"

_log = logging.getLogger("batchyard.groups")


class GroupState:
    """A group: its members, the order in which its batches are served, and word of places that became free.

    `providers` are those of all deployments, by name: a shard is followed that is at none of the members any more.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[GroupMember],
        providers: Mapping[str, RemoteProvider],
        new_member: Callable[..., GroupMember],
    ) -> None:
        self.name = name
        self.members = list(members)
        self.turns = FairQueue()
        self.freed = asyncio.Event()  # replaced each time, so that all who wait are told
        self._providers = providers
        self._new_member = new_member

    def free(self) -> None:
        """Tells those who wait to look again."""
        self.freed.set()
        self.freed = asyncio.Event()

    def member_of(self, placed: PlacementRecord) -> GroupMember | None:
        """The member where a shard is; None where its deployment is not configured any more."""
        member = Member(name=placed.member, deployment=placed.deployment, model=placed.model)
        found = next((one for one in self.members if one.is_at(member)), None)
        provider = self._providers.get(placed.deployment)
        if found or provider is None:
            return found
        return self._new_member(self.name, member, provider)


class Run:
    """One batch; a `Work` for its shards."""

    def __init__(
        self,
        context: Context,
        state: GroupState,
        batch: BatchRecord,
        scan: Scan,
        parts: Sequence[Part],
        control: Control,
    ) -> None:
        self.batch = batch
        self.group = state.name
        self.parts = parts
        self.control = control
        self._context = context
        self._state = state
        self._scan = scan
        self._excluded: dict[str, str] = {}
        self._moved = ""
        self._beginning = asyncio.Lock()
        self._ended = asyncio.Event()
        self._running: dict[int, asyncio.Task[bool]] = {}

    async def to_the_end(self) -> BatchRecord:
        """The batch when every line has a sealed result. Raises Drained, LeaseLost, DataLoss.

        Raises StorageFull where a stopped batch can't be written off.
        """
        async with tasks() as group:
            while await self._spared(partial(self._step, group)):
                pass
        return await self._context.work.reread(self.batch)

    async def _spared(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """What `work` returns; True where it failed, after a while: what other shards have under way goes on."""
        try:
            return await work()
        except (LeaseLost, Drained, DataLoss):
            raise
        except Exception as error:
            if isinstance(error, StorageFull) and self.control.reason:  # a stopped batch is lent what it needs
                raise
            _log.exception("a batch or a shard of it is stuck, will try again", extra={"batch": self.batch.id})
            await nap(self.control, _LOOK_SECONDS)
            return True

    async def begin(self) -> None:
        async with self._beginning:
            if self.batch.status == Status.VALIDATING:
                now = self.batch.not_before(int(self._context.clock()))
                values = {"status": Status.IN_PROGRESS, "in_progress_at": now}
                try:
                    self.batch = await self._context.work.update_batch(self.batch, **values)
                except LeaseLost:
                    await self.check_stopped()

    async def check_stopped(self) -> None:
        """After a LeaseLost: notes that the batch was cancelled. Raises LeaseLost where that is not what happened."""
        self.batch = await self._context.work.reread(self.batch)
        self.control.see(self.batch)
        if self.batch.status != Status.CANCELLING:
            raise LeaseLost("it was not cancelled")

    def refused(self, group_member: GroupMember, why: str) -> bool:
        others = {other.member.name for other in self._state.members if other is not group_member}
        if others <= self._excluded.keys():  # it is these lines that nobody takes: other lines may still go to all
            self._excluded.clear()
            return False
        self._excluded[group_member.member.name] = why
        return True

    async def _step(self, group: asyncio.TaskGroup) -> bool:
        """Places some lines, or waits for a shard to end; False: there is nothing left to do."""
        if self.control.drained:
            raise Drained
        self._ended.clear()
        chunks = await self._context.work.chunks(self.batch)
        if not await self._start(group, [one for one in chunks if not one.sealed and one.n not in self._running]):
            return True
        runs = unplaced(self._scan.chunks, chunks)
        if runs and self.control.reason:
            await self._write_off(runs[0], self.control.reason, ran=False)
        elif runs:
            await self._place(runs[0])
        elif self._running:
            await nap(self.control, _LONG_SECONDS, self._ended)
        return bool(runs or self._running or self._ended.is_set())

    async def _start(self, group: asyncio.TaskGroup, chunks: Sequence[ChunkRecord]) -> bool:
        """Carries on with shards that nobody runs; False where lines went back: their writing off was interrupted."""
        placed = {one.n: one for one in await self._context.placements.of(self.batch)} if chunks else {}
        for chunk in chunks:
            if chunk.n in placed:
                work = partial(self._shard, placed[chunk.n], chunk)
                task = self._running[chunk.n] = group.create_task(self._spared(work))
                task.add_done_callback(partial(self._note_end, chunk.n))
            else:
                await self._context.placements.dissolve(self.batch, chunk.n)
        return all(chunk.n in placed for chunk in chunks)

    def _note_end(self, n: int, _: object) -> None:
        del self._running[n]
        self._ended.set()
        self._state.free()

    async def _shard(self, placed: PlacementRecord, chunk: ChunkRecord) -> bool:
        chunk = await self._claimed(chunk)
        group_member = self._state.member_of(placed)
        if group_member is None:
            await self._without_deployment(placed, chunk)
            return True
        told = {"batch": self.batch.id, "shard": placed.n, "member": placed.member, "lines": placed.lines}
        own = placed.reason.rpartition("; ")[2]  # why it moved before may be in a provider's words
        _log.info("a shard runs", extra={**told, "reason": own})
        try:
            await Shard(self._context, self, group_member, placed, chunk).run()
        except ShardRequeued as moved:
            self._moved = f"moved from {placed.member} ({moved.why})"[:300] + "; "
            _log.warning("a shard moves", extra={**told, "reason": moved.logged})
        return True

    async def _without_deployment(self, placed: PlacementRecord, chunk: ChunkRecord) -> None:
        """What becomes of a shard whose deployment was taken out of the configuration: it may come back."""
        if not placed.asked:
            await self._context.placements.dissolve(self.batch, placed.n)
            return
        _log.warning("a shard's deployment is not configured", extra={"batch": self.batch.id, "member": placed.member})
        while not self.control.reason:
            await nap(self.control, _LONG_SECONDS)
        await self._context.placements.update(self.batch, placed, open=0)
        await self._gather(chunk, self.control.reason, ran=False)

    async def _place(self, run: Sequence[Chunk]) -> None:
        """Places the start of a run when it is the batch's turn and there is room, or finds that nobody takes it."""
        turn = asyncio.ensure_future(self._when_free(run))
        await self.control.first(turn)
        await asyncio.wait({turn})
        if turn.cancelled():  # the batch was stopped
            return
        try:
            turn.result()
        except LeaseLost:
            await self.check_stopped()
        except Misfit as misfit:
            await self._write_off(misfit.chunks, Failure("no_deployment", misfit.why), ran=True)

    async def _when_free(self, run: Sequence[Chunk]) -> None:
        """Who waits keeps its turn, so that what becomes free is not taken by smaller batches again and again.

        One that some members refused waits aside: others may go to these.
        """
        while True:
            if self._state.turns.held:
                await self._context.placements.place(self.batch, lambda _: _IN_LINE)
            async with self._state.turns.turn(self.batch.seq):
                while True:
                    freed = self._state.freed
                    found = await self._context.placements.place(self.batch, partial(self._decide, run))
                    if isinstance(found, PlacementRecord):
                        return
                    if self._excluded:
                        break
                    await self._wait(freed)
            await self._wait(freed)

    async def _wait(self, freed: asyncio.Event) -> None:
        """Until there may be room."""
        pauses = [group_member.pause + _SOON_SECONDS for group_member in self._state.members if group_member.pause]
        await until(freed, min([*pauses, _LOOK_SECONDS]))

    def _decide(self, run: Sequence[Chunk], held: Standing) -> NewPlacement | str:
        choice = choose(run, self._state.members, held, self._excluded)
        if isinstance(choice, str):
            return choice
        group_member, chunks = choice.group_member, choice.chunks
        placement = {
            "member": group_member.member.name,
            "provider": group_member.provider.name,
            "deployment": group_member.member.deployment,
            "model": group_member.member.model,
            "first_line": chunks[0].first_line,
            "lines": sum(chunk.requests for chunk in chunks),
            "tokens": sum(chunk.tokens for chunk in chunks),
            "reason": self._moved + choice.reason,
            "status": Status.VALIDATING,
            "created_at": int(self._context.clock()),
        }
        return NewPlacement(_columns(chunks), placement)

    async def _write_off(self, run: Sequence[Chunk], failure: Failure, *, ran: bool) -> None:
        """Gives lines that go nowhere an error for a result."""
        await self.begin()
        await self._context.placements.take(self.batch, _columns(run))
        taken = next(one for one in await self._context.work.chunks(self.batch) if one.start == run[0].offset)
        await self._gather(await self._claimed(taken), failure, ran=ran)

    async def _gather(self, chunk: ChunkRecord, failure: Failure | None, *, ran: bool) -> None:
        wanted = CollectRequest(self.batch.id, self.group, self.parts, chunk, self.control.reason)
        await self._context.harvest.gather(wanted, [], lambda line: (failure or EXPIRED, ran))

    async def _claimed(self, chunk: ChunkRecord) -> ChunkRecord:
        now = self._context.clock()
        return await self._context.work.claim_chunk(chunk, now, now + self._context.lease_seconds)


def _columns(chunks: Sequence[Chunk]) -> dict[str, int]:
    first = chunks[0]
    return {"first_line": first.first_line, "start": first.offset, "end": first.offset + size_of(chunks)}
