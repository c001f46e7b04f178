"""The results of a chunk as two immutable objects of the file store: lines that succeeded, and the others."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from batchyard.service.domain.records import ChunkRecord, Counts, Part, SealedChunk
from batchyard.service.errors import LeaseLost, StorageFull, Unavailable
from batchyard.service.objects.base import ObjectStore, ObjectWriter
from batchyard.service.registry.work import WorkRegistry

OUTPUT, ERROR = "output", "error"


class Segments:
    """Written piece by piece; an object is only begun where something goes there."""

    def __init__(self, store: ObjectStore, stem: str, stack: AsyncExitStack, *, bounded: bool) -> None:
        self._store = store
        self._stem = stem
        self._stack = stack
        self._bounded = bounded
        self._writers: dict[str, ObjectWriter] = {}

    async def write(self, kind: str, data: bytes) -> None:
        """Appends to OUTPUT or ERROR. Raises StorageFull."""
        if kind not in self._writers:
            writer = self._store.writer(f"{self._stem}.{kind}", bounded=self._bounded, spare=True)
            self._writers[kind] = await self._stack.enter_async_context(writer)
        await self._writers[kind].write(data)

    async def seal(self, work: WorkRegistry, chunk: ChunkRecord, counts: Counts) -> None:
        """Makes the objects durable and commits them as the chunk's. Raises LeaseLost, StorageFull.

        They are removed where the commit has certainly failed. A commit that may yet hold leaves them, as does a store
        that can't be reached: a sweep asks the registry.
        """
        parts: dict[str, Part | None] = {OUTPUT: None, ERROR: None}
        async with AsyncExitStack() as undo:
            for kind, writer in self._writers.items():
                await writer.commit()
                key = f"{self._stem}.{kind}"
                undo.push_async_callback(self._remove, key)
                parts[kind] = writer.part
            try:
                await work.seal(chunk, SealedChunk(counts=counts, output=parts[OUTPUT], error=parts[ERROR]))
            except BaseException as error:
                if not isinstance(error, LeaseLost | StorageFull):
                    undo.pop_all()
                raise
            undo.pop_all()

    async def _remove(self, key: str) -> None:
        with suppress(Unavailable):
            await self._store.delete(key)


@asynccontextmanager
async def segments(store: ObjectStore, batch_id: str, chunk: ChunkRecord, *, bounded: bool) -> AsyncIterator[Segments]:
    """Segments of a chunk in its epoch, of which nothing is left unless they are sealed.

    Those of a stopped batch are not `bounded`, or a full store could keep its own batches from ending.
    """
    async with AsyncExitStack() as stack:
        yield Segments(store, f"segments/{batch_id}.{chunk.n}.{chunk.epoch}", stack, bounded=bounded)
