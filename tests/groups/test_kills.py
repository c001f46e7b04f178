"""A small run of `make torture ARGS="--groups 50"`."""

from pathlib import Path

from tests.groups.kills import kill_groups

SEED = 5


async def test_batches_that_are_killed_ten_times_have_every_line_once(tmp_path: Path) -> None:
    report = await kill_groups(tmp_path, SEED, 10)
    assert report.good, f"{report}: {report.faults}"
    assert report.kills == 10
