"""The object stores that the contract suite runs over: a further one is a row of `STORES`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

from tests.memory_store import MemoryStore

from batchyard.service.datadir.disk import Disk
from batchyard.service.objects.base import ObjectStore
from batchyard.service.objects.local import FileStore


class StoreSubject(NamedTuple):
    """A store under test.

    `new` makes an empty one that may use a folder. While the context of `unreachable` is open nothing can be had of it
    nor put into it.
    """

    name: str
    new: Callable[[Path], ObjectStore]
    unreachable: Callable[..., AbstractContextManager[None]]


@contextmanager
def _without_its_folder(store: FileStore) -> Iterator[None]:
    """As where the disk of a store went away, and its mount point is a folder like any other."""
    away = store.root.rename(store.root.with_name("away"))
    store.root.mkdir()
    try:
        yield
    finally:
        rmtree(store.root)
        away.rename(store.root)


STORES = [
    StoreSubject("local", lambda folder: FileStore(folder / "store", Disk()), _without_its_folder),
    StoreSubject("memory", lambda _: MemoryStore(), MemoryStore.unreachable),
]
