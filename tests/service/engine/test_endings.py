"""However many batches are stopped at once, only a few of their chunks are in memory to be written off."""

import asyncio
import threading
from pathlib import Path

from tests.harness import PATIENCE, chat_lines, jsonl, service, settings_for, until

from batchyard.service.config.settings import LocalSettings
from batchyard.service.datadir.disk import Disk
from batchyard.v1 import BatchStatus, CancelBatchRequest

MOST = 4
BATCHES, LINES, CHUNK = 8, 6, 2


class Turnstile(Disk):
    """Holds every chunk that is begun while it is closed, and counts them."""

    def __init__(self) -> None:
        self.closed = False
        self.inside = 0
        self.most = 0
        self._opened = threading.Event()
        self._lock = threading.Lock()

    def open(self) -> None:
        self._opened.set()

    def sync_dir(self, path: Path, *, site: str) -> None:
        super().sync_dir(path, site=site)
        if self.closed and site == "journal.dir":
            with self._lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            self._opened.wait(PATIENCE)
            with self._lock:
                self.inside -= 1


async def test_a_few_chunks_of_stopped_batches_are_written_off_at_once(tmp_path: Path) -> None:
    disk = Turnstile()
    local = LocalSettings(echo=True, echo_delay_ms=60_000, max_active_batches=1, chunk_lines=CHUNK)
    async with service(settings_for(tmp_path, local=local), disk=disk) as (_, client):
        file = await client.upload(jsonl(chat_lines(LINES)))
        running = await client.create(file.id)
        await until(lambda: client.get(running.id), lambda batch: batch.HasField("in_progress_at"))
        waiting = [await client.create(file.id) for _ in range(BATCHES)]
        disk.closed = True
        for batch in waiting:
            await client.stub.CancelBatch(CancelBatchRequest(batch_id=batch.id), metadata=client.metadata)
        for batch in waiting:
            await until(lambda batch=batch: client.get(batch.id), lambda seen: seen.request_counts.total == LINES)  # type: ignore[misc]

        async def inside() -> int:
            return disk.inside

        await until(inside, lambda count: count >= MOST)
        await asyncio.gather(*(client.get(batch.id) for batch in waiting))  # one more would have come by now
        assert disk.inside == MOST
        disk.open()
        ended = [await client.ended(batch.id) for batch in waiting]
        assert {batch.status for batch in ended} == {BatchStatus.BATCH_STATUS_CANCELLED}
        assert [len(await client.results(batch.error_file_id)) for batch in ended] == [LINES] * BATCHES
        assert disk.most == MOST
