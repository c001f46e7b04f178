from batchyard.service.providers.objects import batch_values, unfinished

ENDED = {"id": "batch_1", "status": "completed", "created_at": 1, "in_progress_at": 2, "completed_at": 3}


def test_a_batch_whose_results_are_not_registered_yet_is_not_shown_as_ended() -> None:
    values = unfinished(batch_values(ENDED, now=4))
    for shown in (values, values["upstream"]):
        assert (shown["status"], shown["completed_at"], shown["in_progress_at"]) == ("validating", None, None)
    assert values["created_at"] == 1


def test_a_batch_that_runs_is_shown_as_it_is() -> None:
    values = batch_values(ENDED | {"status": "in_progress", "completed_at": None}, now=4)
    assert unfinished(values) == values
