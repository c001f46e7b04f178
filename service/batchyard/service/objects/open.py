"""Opens the store that the settings ask for, in the order that its first use needs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batchyard.common.metrics import Metrics
from batchyard.service.config.settings import Settings
from batchyard.service.datadir.aside import Aside
from batchyard.service.datadir.disk import Disk
from batchyard.service.objects import startup_sweep
from batchyard.service.objects.base import Known, ObjectStore
from batchyard.service.objects.collector import store_look
from batchyard.service.objects.local import FileStore


@asynccontextmanager
async def open_local_store(
    known: Known, *, settings: Settings, disk: Disk, aside: Aside, metrics: Metrics, accept: bool
) -> AsyncIterator[ObjectStore]:
    """The local store of a locked data directory, swept; `metrics` has its figures meanwhile.

    Raises FailedPrecondition where the registry seems to be that of another store, unless the caller `accept`s it.
    """
    limits, folder = settings.limits, settings.data_dir / "store"
    store = FileStore(folder, disk, max_bytes=limits.max_stored_bytes, min_free=limits.min_free_bytes)
    await startup_sweep.sweep(store, known, aside, accept=accept)
    with metrics.asking(store_look(store, disk, folder)):
        yield store
