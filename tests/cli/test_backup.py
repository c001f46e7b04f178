"""A backup that is taken of a running service starts as a service of its own, and goes on where the copy stands."""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc
from tests.harness import Client, chat_lines, jsonl, until
from tests.processes import batchyard, configure

from batchyard.v1 import BatchStatus


async def backed_up(folder: Path, destination: Path) -> tuple[int, str]:
    """The command's exit code and what it says."""
    options = ["--config", str(folder / "config.yaml"), "--data-dir", str(folder / "data"), str(destination)]
    ran = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "batchyard.cli.main",
        "backup",
        *options,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(ran.communicate(), 60)
    return ran.returncode or 0, said.decode()


async def test_a_backup_of_a_running_batch_is_started_and_runs_it_to_its_end(tmp_path: Path) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    live.mkdir()
    configure(live, echo=True, echo_delay_ms=20, max_concurrency=8, chunk_lines=100)
    with batchyard(live) as process:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await process.port()}") as channel:
            client = Client(channel)
            file = await client.upload(jsonl(chat_lines(1000)))
            batch = await client.create(file.id)
            await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed > 250)
            code, said = await backed_up(live, copy / "data")
            assert code == 0, said
            assert (await client.ended(batch.id)).request_counts.completed == 1000
    (copy / "config.yaml").write_text((live / "config.yaml").read_text())
    with batchyard(copy) as process:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await process.port()}") as channel:
            client = Client(channel)
            assert await client.read(file.id) == jsonl(chat_lines(1000))
            ended = await client.ended(batch.id)
            assert ended.status == BatchStatus.BATCH_STATUS_COMPLETED
            results = await client.results(ended.output_file_id)
            assert [line["custom_id"] for line in results] == [f"request-{number}" for number in range(1000)]


async def test_a_backup_refuses_what_it_would_overwrite_and_what_is_no_data_directory(tmp_path: Path) -> None:
    configure(tmp_path, echo=True)
    (tmp_path / "data").mkdir()
    code, said = await backed_up(tmp_path, tmp_path / "copy")
    assert code == 1
    assert "is not a data directory" in said
    with batchyard(tmp_path) as process:
        await process.port()
        (tmp_path / "taken").mkdir()
        code, said = await backed_up(tmp_path, tmp_path / "taken")
    assert code == 1
    assert "exists already" in said
    assert not list((tmp_path / "taken").iterdir())
