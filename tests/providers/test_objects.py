from typing import Any

import pytest

from batchyard.service.providers.remote.columns import batch_values, unfinished

ENDED = {"id": "batch_1", "status": "completed", "created_at": 1, "in_progress_at": 2, "completed_at": 3}
ENDED |= {"output_file_id": "file-1", "error_file_id": None}


def test_a_batch_whose_results_are_not_registered_yet_is_not_shown_as_ended() -> None:
    values = unfinished(batch_values(ENDED, now=4))
    for shown in (values, values["upstream"]):
        assert (shown["status"], shown["completed_at"], shown["in_progress_at"]) == ("validating", None, None)
    assert values["created_at"] == 1


@pytest.mark.parametrize("more", [{"status": "in_progress"}, {"status": "failed", "output_file_id": None}], ids=str)
def test_a_batch_that_runs_or_has_no_results_is_shown_as_it_is(more: dict[str, Any]) -> None:
    values = batch_values(ENDED | more, now=4)
    assert unfinished(values) == values
