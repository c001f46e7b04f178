"""Pages of other origins get nothing: no route answers a browser's question whether they may, and no answer says so."""

import pytest

from .conftest import Door, refusal

ORIGIN = {"origin": "https://evil.example"}
PREFLIGHT = {**ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
PATHS = ["/v1/files", "/v1/files/file-a", "/v1/batches", "/openapi.json", "/health/liveness"]


def allowed(headers: object) -> list[str]:
    return [name for name in dict(headers) if name.lower().startswith("access-control-")]  # type: ignore[call-overload]


@pytest.mark.parametrize("path", PATHS)
async def test_a_preflight_is_a_wrong_method(door: Door, path: str) -> None:
    answer = await door.rest.options(path, headers=PREFLIGHT)
    assert refusal(answer, 405)["message"] == f"Invalid method (OPTIONS {path})"
    assert allowed(answer.headers) == []


@pytest.mark.parametrize("path", [*PATHS, "/nowhere"])
async def test_no_answer_lets_another_origin_read_it(door: Door, path: str) -> None:
    for answer in (await door.rest.get(path, headers=ORIGIN), await door.rest.options("/nowhere", headers=PREFLIGHT)):
        assert allowed(answer.headers) == []
        assert "vary" not in answer.headers
