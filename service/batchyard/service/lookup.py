"""How an id becomes a row: the caller's own, or for who may see everything, what is at a deployment without one."""

from batchyard.service.domain.keys import Caller
from batchyard.service.domain.records import BatchRecord, FileRecord
from batchyard.service.errors import NotFound
from batchyard.service.providers.router import Router
from batchyard.service.registry.tenant import TenantRegistry


class Lookup:
    """Finds files and batches of a caller, at a place or anywhere (empty). Raises NotFound."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def file(self, caller: Caller, owner: TenantRegistry, file_id: str, place: str) -> FileRecord:
        """A file that is missing may be the result of a batch that has just ended: those are looked at once more."""
        try:
            return await owner.get_file(file_id, place)
        except NotFound:
            await self._router.refresh(owner, place)
        try:
            return await owner.get_file(file_id, place)
        except NotFound:
            if not (caller.master and place):
                raise
        return await self._router.provider(place).find_file(file_id)

    async def batch(self, caller: Caller, owner: TenantRegistry, batch_id: str, place: str) -> BatchRecord:
        try:
            return await owner.get_batch(batch_id, place)
        except NotFound:
            if not (caller.master and place):
                raise
        return await self._router.provider(place).find_batch(batch_id)
