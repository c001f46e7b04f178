"""Every bad input gets its answer, on both surfaces, and nothing is lost or left by it."""

from pathlib import Path

import pytest
from tests.bad_input import calls, files
from tests.bad_input.model import Group
from tests.bad_input.proving import bench, prove


@pytest.mark.parametrize("group", [*calls.GROUPS, *files.GROUPS], ids=lambda group: group.title)
async def test_bad_inputs_are_answered_and_lose_nothing(tmp_path: Path, group: Group) -> None:
    async with bench(tmp_path) as door:
        for case in group.cases:
            for send, surface in case.ways():
                await prove(door, case, send, surface)
