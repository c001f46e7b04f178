"""The figures of batches of model groups: each line counts once, under its provider, when its result is here."""

from pathlib import Path

from tests.scrapes import scrape
from tests.upstream.faults import to

from batchyard.common.metrics import Metrics

from .scene import HELD, lines_of, scene

LINES, RUNNING = "batchyard_lines_total", "batchyard_batches_in_progress"
OUTCOMES = ("completed", "failed", "not_run")


async def test_lines_count_once_under_their_provider(tmp_path: Path) -> None:
    metrics = Metrics()
    async with scene(tmp_path, members=[{"max_lines": 2}] * 2, metrics=metrics) as yard:
        await yard.run([*lines_of(5), *lines_of(1, "bad-", fail=400)])
        seen = await scrape(metrics)
    assert [seen(LINES, provider="groups", outcome=outcome) for outcome in OUTCOMES] == [5, 1, 0]
    assert [seen(LINES, provider="local", outcome=outcome) for outcome in OUTCOMES] == [0, 0, 0]


async def test_what_was_not_run_and_what_is_in_progress_counts_too(tmp_path: Path) -> None:
    metrics = Metrics()
    async with scene(tmp_path, members=[{"max_lines": 2}] * 2, quirks=HELD, metrics=metrics) as yard:
        batch_id = await yard.create(lines_of(4))
        (first, one), (second, two) = await yard.live(2)
        first.run(one)
        second.step(two)
        await yard.seen(batch_id, lambda batch: batch["request_counts"]["completed"] == 2)
        seen = await scrape(metrics)
        assert [seen(RUNNING, provider=provider) for provider in ("groups", "azure", "local")] == [1, 0, 0]
        await yard.door.rest.post(f"/v1/batches/{batch_id}/cancel")
        await second.arrival(to("POST", "/cancel"))
        second.run(two)
        batch = await yard.door.ended(batch_id)
        output, errors = await yard.accounted(batch, lines_of(4))
        seen = await scrape(metrics)
    assert [seen(LINES, provider="groups", outcome=outcome) for outcome in OUTCOMES] == [len(output), 0, len(errors)]
