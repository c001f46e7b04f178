"""`Idempotency-Key` makes a repeated POST answer with the first batch."""

from .conftest import Door, batch_request, refusal

KEY = {"idempotency-key": "k-1"}


async def test_a_repeat_gets_the_first_batch(door: Door) -> None:
    answers = [await door.rest.post("/v1/batches", json=batch_request("file-a"), headers=KEY) for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    other = await door.rest.post("/v1/batches", json=batch_request("file-a"))
    assert other.json()["id"] != answers[0].json()["id"]


async def test_the_key_is_not_read_from_the_body(door: Door) -> None:
    body = {**batch_request("file-a"), "idempotency_key": "k-1"}
    assert refusal(await door.rest.post("/v1/batches", json=body), 400)["code"] == "unknown_parameter"
