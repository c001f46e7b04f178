"""Model groups as a whole: what runs their batches, and what takes their files."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial

from batchyard.service.background import Mutations
from batchyard.service.config.names import GROUPS
from batchyard.service.config.settings import GroupSettings, Limits, Settings
from batchyard.service.domain.names import INTERNAL
from batchyard.service.domain.records import BatchRecord
from batchyard.service.engine.engine import LEASE_SECONDS
from batchyard.service.engine.transitions import Steps
from batchyard.service.errors import InvalidArgument
from batchyard.service.groups.batch_run import GroupState
from batchyard.service.groups.context import Context
from batchyard.service.groups.janitor import Cleaner
from batchyard.service.groups.lifecycle import GroupLife
from batchyard.service.groups.member import GroupMember, MemberState
from batchyard.service.groups.result_collector import ResultCollector
from batchyard.service.groups.transfer_limits import Transfers
from batchyard.service.jsonl.scanner import LineError, Scan, Scanner
from batchyard.service.jsonl.validation import judge
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.objects.base import ObjectStore
from batchyard.service.providers.base import NewBatch, check_ours
from batchyard.service.providers.remote.prober import Prober
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.service.registry.base import Database
from batchyard.service.registry.change_feed import Changes
from batchyard.service.registry.placements import Open, Placements
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry
from batchyard.service.workers import Workers

_CHUNK_LINES, _CHUNK_BYTES = 500, 64 << 10  # what shards are cut into: small, for small budgets
_READ_THREADS = 4


class Groups:
    """The configured groups over the deployments that are open."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        work: WorkRegistry,
        store: ObjectStore,
        changes: Changes,
        mutations: Mutations,
        metrics: ServiceMetrics,
        providers: Mapping[str, RemoteProvider],
        clock: Callable[[], float],
        steady: Callable[[], float],
        expiry: Callable[[], float],
    ) -> None:
        """`expiry` is the time by which windows end and what is left at deployments is removed."""
        self._groups = {group.name: group for group in settings.model_groups}
        limits = limits_of(settings)
        placements = Placements(database, changes.touch)
        self._readers = Workers("group-read", _READ_THREADS)
        internal = TenantRegistry(database, INTERNAL)
        self._cleaner = Cleaner(placements, internal, providers, settings.groups.probe_seconds, expiry)
        context = Context(
            work=work,
            placements=placements,
            internal=internal,
            store=store,
            changes=changes,
            mutations=mutations,
            harvest=ResultCollector(work, store, metrics.lines(GROUPS), self._readers.run),
            transfers=Transfers(settings.groups.max_transfers),
            suspect=self._cleaner.suspect,
            read=self._readers.run,
            settings=settings.groups,
            lease_seconds=LEASE_SECONDS,
            clock=clock,
            expiry=expiry,
        )
        new_member = partial(GroupMember, settings=settings.groups, steady=steady)
        state = partial(GroupState, providers=providers, new_member=new_member)
        self._states = {
            group.name: state(
                group.name, [new_member(group.name, one, providers[one.deployment]) for one in group.members]
            )
            for group in settings.model_groups
        }
        steps = Steps(work, partial(_judged, limits, self._groups), limits, clock)
        self.life = GroupLife(context, steps, self._states, lambda name: state(name, []))
        used = {member.deployment for group in settings.model_groups for member in group.members}
        self._prober = Prober([providers[name] for name in sorted(used)], settings.groups.probe_seconds)
        self._placements = placements
        self._clock = clock

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Probes and cleans until the context ends, when no batch is carried any more."""
        with closing(self._readers):
            async with self._prober.running(), self._cleaner.running():
                yield

    async def members(self) -> list[MemberState]:
        """All members as they are now."""
        held = await self._placements.standing()
        return [self._state(one, one.held(held)) for state in self._states.values() for one in state.members]

    def _state(self, group_member: GroupMember, held: Open) -> MemberState:
        member = group_member.member
        return MemberState(
            group_member.group,
            member.name,
            member.model,
            member.deployment,
            member.order,
            member.weight,
            group_member.limit,
            held.tokens,
            held.shards,
            int(self._clock() + group_member.pause) if group_member.pause else None,
            group_member.refusal or None,
        )

    def check(self, new: NewBatch) -> None:
        """Raises InvalidArgument for a batch that no group can run."""
        check_ours(new)
        if new.model and new.model not in self._groups:
            message = f"The model '{new.model}' does not exist: no model group has that name."
            raise InvalidArgument(message, param="model", code="model_not_found")


def limits_of(settings: Settings) -> Limits:
    """What bounds files and batches of groups."""
    groups: GroupSettings = settings.groups
    return replace(
        settings.limits,
        max_file_bytes=groups.max_batch_file_bytes,
        max_batch_file_bytes=groups.max_batch_file_bytes,
        max_batch_lines=groups.max_batch_lines,
    )


def scanner_of(settings: Settings) -> Callable[[], Scanner]:
    """Makes scanners that cut an input so finely that the smallest member's limits can be met."""
    members = [member for group in settings.model_groups for member in group.members]
    lines = min([_CHUNK_LINES, *(member.max_lines for member in members)])
    sizes = [_CHUNK_BYTES, *(max(1, member.max_bytes // 2) for member in members)]
    # A token is about four bytes: so a chunk is no more than a quarter of the smallest budget.
    sizes += [member.enqueued_tokens for member in members if member.enqueued_tokens]
    return partial(Scanner, limits_of(settings), chunk_lines=lines, chunk_bytes=min(sizes))


def _judged(limits: Limits, known: Collection[str], batch: BatchRecord, scan: Scan) -> list[LineError]:
    return judge(scan, batch.endpoint, limits, batch.model, known)
