"""What every error carries, whoever refuses. tests/bad_input has the errors themselves."""

from .conftest import Door


async def test_the_callers_request_id_comes_back_with_an_error_and_with_an_answer(door: Door) -> None:
    for path in ("/v1/files", "/v1/files/file-missing", "/v1/foo", "/v1/files/file-missing/content"):
        answer = await door.rest.get(path, headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        assert (await door.rest.get(path)).headers["x-request-id"].startswith("req_")
