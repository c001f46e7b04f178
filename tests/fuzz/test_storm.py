"""Seconds of what `make torture ARGS="--storm 120"` does for hours; how long answers take is judged there alone."""

from pathlib import Path

import pytest
from tests.storm import storm

SEED = 20261130


@pytest.mark.once
async def test_inputs_of_any_kind_are_no_fault_of_the_server(tmp_path: Path) -> None:
    report = await storm(tmp_path, SEED, 8)
    assert report.faults == []
    assert report.inputs.total() > 20
    assert report.probes > 0
