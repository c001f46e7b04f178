"""What every shard needs, and what its batch gives it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from batchyard.service.background import Mutations
from batchyard.service.config.settings import GroupSettings
from batchyard.service.domain.records import BatchRecord, Part
from batchyard.service.engine.control import Control
from batchyard.service.groups.member import GroupMember
from batchyard.service.groups.result_collector import ResultCollector
from batchyard.service.groups.transfer_limits import Transfers
from batchyard.service.objects.base import ObjectStore
from batchyard.service.registry.change_feed import Changes
from batchyard.service.registry.placements import Open, Placements
from batchyard.service.registry.tenant import TenantRegistry
from batchyard.service.registry.work import WorkRegistry
from batchyard.service.workers import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The service around model groups. `internal` owns what is made at deployments, `transfers` bounds what moves.

    `suspect` is told the deployment where an upload broke off, `read` has the threads that read lines. `expiry` is the
    time by which windows end.
    """

    work: WorkRegistry
    placements: Placements
    internal: TenantRegistry
    store: ObjectStore
    changes: Changes
    mutations: Mutations
    harvest: ResultCollector
    transfers: Transfers
    suspect: Callable[[str], None]
    read: Run
    settings: GroupSettings
    lease_seconds: float
    clock: Callable[[], float]
    expiry: Callable[[], float]

    async def standing(self, group_member: GroupMember) -> Open:
        """What is open at a member."""
        return group_member.held(await self.placements.standing())


class Work(Protocol):
    """A batch on its way."""

    batch: BatchRecord
    group: str
    parts: Sequence[Part]
    control: Control

    async def begin(self) -> None:
        """Its first line could run."""

    async def check_stopped(self) -> None:
        """After a LeaseLost: notes that the batch was cancelled. Raises LeaseLost where that is not what happened."""

    def refused(self, group_member: GroupMember, why: str) -> bool:
        """Notes that a member takes none of its lines; False where no other member may take these either."""
