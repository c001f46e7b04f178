"""A small run of `make torture ARGS="--chaos 1000"`."""

from pathlib import Path

import pytest
from tests.chaos import MIX, chaos

from .scene import Provider


@pytest.mark.parametrize("provider", ["openai", "azure"])
async def test_a_hundred_calls_lose_and_double_nothing(tmp_path: Path, provider: Provider) -> None:
    report = await chaos(tmp_path, 2026, 100, provider)
    assert report.faults == [], str(report)
    assert {end.partition(" ")[0] for end in report.ends} == set(MIX)
    assert report.ends.total() == 100
    assert report.injected > 0
    assert report.batches > 0
