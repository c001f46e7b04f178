"""Mixed calls leave nothing behind: no memory, no thread, no descriptor, no byte on disk."""

from pathlib import Path

import pytest
from tests.soak import MIX, soak


@pytest.mark.once
async def test_hundreds_of_mixed_calls_leave_nothing_behind(tmp_path: Path) -> None:
    report = await soak(tmp_path, 2026, 500)
    assert report.faults == [], str(report)
    assert set(report.calls) == set(MIX)
    assert report.calls.total() == 500
