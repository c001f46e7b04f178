"""A small run of `make torture ARGS="--large"`."""

from pathlib import Path

from tests.groups.large import MIB, large

MOST_GROWTH = 64 * MIB


async def test_a_large_batch_takes_little_memory(tmp_path: Path) -> None:
    report = await large(tmp_path, 50_000, 1200, 10)
    assert report.faults == [], str(report)
    assert report.bytes > 59_000_000
    assert min(report.shards) >= 1, str(report)
    assert report.growth <= MOST_GROWTH, str(report)
