"""Uploads and downloads that go on to a provider, against going there directly."""

from pathlib import Path

import aiohttp
from tests.bench.measure import Figure, compared
from tests.bench.transfers import RestFiles, content, rate
from tests.uploads import pair_at


async def figures(folder: Path, rounds: int, size: int) -> list[Figure]:
    """Moves a file of `size` bytes up and down, `rounds` times each way; the provider keeps nothing of it."""
    data = content(size)
    async with pair_at(folder, "openai", len(data)) as running, aiohttp.ClientSession() as session:
        ours = RestFiles(session, str(running.rest.base_url.join("/v1/files")), data)
        direct = RestFiles(session, f"{running.upstream}/files", data, key="sk-upstream")
        await ours.upload()
        await direct.upload()
        return [
            await compared(f"through a provider, {way}", "MB/s", rounds, rate(a, len(data)), rate(b, len(data)))
            for way, a, b in (("upload", ours.upload, direct.upload), ("download", ours.download, direct.download))
        ]
