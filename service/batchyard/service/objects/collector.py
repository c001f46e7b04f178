"""Figures of the object store."""

import asyncio
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from batchyard.common.metrics import Look
from batchyard.service.datadir.disk import Disk
from batchyard.service.objects.local import FileStore


def store_look(store: FileStore, disk: Disk, folder: Path) -> Look:
    """What the store in `folder` holds, and what its disk still takes."""

    async def look() -> list[Metric]:
        free = await asyncio.to_thread(disk.free_bytes, folder)
        return [
            GaugeMetricFamily("batchyard_store_bytes", "Bytes that the file store holds.", store.room.held),
            GaugeMetricFamily("batchyard_store_free_bytes", "Bytes that the store's disk still takes.", free),
        ]

    return look
