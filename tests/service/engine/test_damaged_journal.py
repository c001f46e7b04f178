"""A result on its way that was damaged: its line runs again where that is harmless, and else says what became of it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from tests.fakes import FakeEndpoint, Gate, completion, fake_endpoint
from tests.harness import Client, chat_lines, jsonl, service, settings_for, until

from batchyard.service.config.settings import LocalSettings
from batchyard.service.jsonl.results import result_id
from batchyard.v1 import Batch

LINES, DONE = 10, 6
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def asked(endpoint: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{**line, "url": endpoint} for line in chat_lines(LINES)]
    if endpoint == RESPONSES:
        for line in lines:
            line["body"]["input"] = line["body"]["messages"][0]["content"]
    return lines


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def fake(gate: Gate) -> Any:
    async def answer(body: dict[str, Any], before: int) -> Response:
        if int(body["messages"][-1]["content"].split()[1]) >= DONE:
            await gate.passed()
        return completion(body)

    async with fake_endpoint(answer) as running:
        yield running
        gate.open()


async def damaged_in_the_midst(folder: Path, fake: FakeEndpoint, endpoint: str, line: int, hit: slice) -> Batch:
    """A batch of which `DONE` lines have a result in a journal; of the one of `line` some bytes changed."""
    settings = settings_for(folder, local=LocalSettings(api_base=fake.api_base))
    async with service(settings) as (server, client):
        batch = await client.create((await client.upload(jsonl(asked(endpoint)))).id, endpoint)
        await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed == DONE)
        await server.drain(0)
    (journal,) = (folder / "data/work").iterdir()
    content = bytearray(journal.read_bytes())
    at = content.index(result_id(batch.id, line))
    content[at + hit.start : at + hit.stop] = b"?" * (hit.stop - hit.start)
    journal.write_bytes(content)
    return batch


async def ended(folder: Path, fake: FakeEndpoint, batch: Batch) -> tuple[Batch, dict[str, str | None]]:
    """The batch when it has ended, and the error of each line."""
    settings = settings_for(folder, local=LocalSettings(api_base=fake.api_base))
    async with service(settings) as (_, client):
        last = await client.ended(batch.id)
        return last, await errors(client, last)


async def errors(client: Client, batch: Batch) -> dict[str, str | None]:
    lines = await client.results(batch.output_file_id) + await client.results(batch.error_file_id)
    assert len(lines) == LINES
    return {line["custom_id"]: line["error"] and line["error"]["code"] for line in lines}


async def test_a_line_that_may_run_again_does(tmp_path: Path, fake: FakeEndpoint, gate: Gate) -> None:
    batch = await damaged_in_the_midst(tmp_path, fake, CHAT, 1, slice(60, 70))
    gate.open()
    last, found = await ended(tmp_path, fake, batch)
    assert last.request_counts.completed == LINES
    assert set(found.values()) == {None}
    assert [fake.calls[f"question {number}"] for number in range(DONE)] == [2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("hit", [slice(60, 70), slice(0, 20), slice(-20, -10)], ids=["text", "id", "head"])
async def test_a_line_that_must_not_run_again_ends_as_an_error(
    tmp_path: Path, fake: FakeEndpoint, gate: Gate, hit: slice
) -> None:
    batch = await damaged_in_the_midst(tmp_path, fake, RESPONSES, 1, hit)
    gate.open()
    last, found = await ended(tmp_path, fake, batch)
    assert (last.request_counts.completed, last.request_counts.failed) == (LINES - 1, 1)
    assert found == {f"request-{number}": None if number else "result_lost" for number in range(LINES)}
    assert [fake.calls[f"question {number}"] for number in range(DONE)] == [1] * DONE


async def test_none_runs_again_where_nobody_knows_which_it_was(tmp_path: Path, fake: FakeEndpoint, gate: Gate) -> None:
    batch = await damaged_in_the_midst(tmp_path, fake, RESPONSES, 1, slice(-30, 20))
    gate.open()
    _, found = await ended(tmp_path, fake, batch)
    assert {name for name, code in found.items() if code} == {
        "request-0",
        *(f"request-{n}" for n in range(DONE, LINES)),
    }
    assert [fake.calls[f"question {number}"] for number in range(DONE)] == [1] * DONE


async def test_results_are_kept_beside_an_older_registry_in_which_the_batch_has_no_chunks(
    tmp_path: Path, fake: FakeEndpoint, gate: Gate
) -> None:
    """They were asked for and paid once; the chunk finds them when it is made again."""
    settings = settings_for(tmp_path, local=LocalSettings(api_base=fake.api_base))
    async with service(settings) as (server, client):
        batch = await client.create((await client.upload(jsonl(asked(CHAT)))).id, CHAT)
        await until(lambda: client.get(batch.id), lambda seen: seen.request_counts.completed == DONE)
        await server.drain(0)
    with closing(sqlite3.connect(settings.data_dir / "registry.sqlite3", isolation_level=None)) as rows:
        rows.execute("DELETE FROM chunks")
        rows.execute("UPDATE batches SET status = 'validating', total = 0, completed = 0, in_progress_at = NULL")
    gate.open()
    last, found = await ended(tmp_path, fake, batch)
    assert last.request_counts.completed == LINES
    assert set(found.values()) == {None}
    assert [fake.calls[f"question {number}"] for number in range(DONE)] == [1] * DONE
