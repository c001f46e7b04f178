"""`Idempotency-Key` makes a repeated POST answer with the first batch."""

import json

from .conftest import BEARER, Door, batch_request, refusal

KEY = {"idempotency-key": "k-1"}


async def test_a_repeat_gets_the_first_batch(door: Door) -> None:
    answers = [await door.rest.post("/v1/batches", json=batch_request("file-a"), headers=KEY) for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    other = await door.rest.post("/v1/batches", json=batch_request("file-a"))
    assert other.json()["id"] != answers[0].json()["id"]


async def test_the_key_is_not_read_from_the_body(door: Door) -> None:
    body = {**batch_request("file-a"), "idempotency_key": "k-1"}
    assert refusal(await door.rest.post("/v1/batches", json=body), 400)["code"] == "unknown_parameter"


async def test_white_space_after_the_key_is_no_part_of_it(door: Door) -> None:
    body = json.dumps(batch_request("file-a")).encode()
    ids = set()
    for blank in (b"", b" ", b"\t", b" \t "):
        head = b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        lines = b"Idempotency-Key:%bk%b\r\nContent-Length: %d%b\r\n" % (blank, blank, len(body), blank)
        key = b"Authorization: %b%b\r\n\r\n" % (BEARER["authorization"].encode(), blank)
        reader, writer = await door.send_raw(head + lines + key, body)
        ids.add(json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["id"])
        writer.close()
    assert len(ids) == 1
