import asyncio
import json
from itertools import repeat

import pytest
from grpc import StatusCode
from tests.eventsource import EventSource

from batchyard.v1 import Batch, WatchBatchResponse

from .conftest import Refusal, Shim, eventually, running_shim

PATH = "/v1/batches/batch_1/events"
STOPPING = Refusal(StatusCode.UNAVAILABLE, "It stops.", "UNAVAILABLE")


def state(**members: str) -> WatchBatchResponse:
    return WatchBatchResponse(batch=Batch(id="batch_1", metadata=members))


async def test_states_are_events_and_the_last_event_is_the_end(shim: Shim) -> None:
    shim.service.watches = [[state(), state(line="two\nlines\u2028\r")]]
    answer = await shim.client.get(PATH)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
    first, second, end, rest = answer.content.split(b"\n\n")
    assert first.startswith(b"event: batch\nid: ")
    assert second.startswith(b"event: batch\nid: ")
    assert (end, rest) == (b"event: end\nid: end\ndata: {}", b"")
    assert [part.count(b"\n") for part in (first, second)] == [2, 2]
    assert json.loads(second.partition(b"data: ")[2])["metadata"] == {"line": "two\nlines\u2028\r"}


async def test_the_same_state_has_the_same_id_wherever_it_is_sent(shim: Shim) -> None:
    shim.service.watches = [[state(a="1"), state(a="2"), state(a="1")], [state(a="2")]]
    sources = EventSource(shim.client, PATH), EventSource(shim.client, PATH)
    (one, two, again, _), (other, _) = [[event.last_id async for event in source.connect()] for source in sources]
    assert one == again != two == other


@pytest.mark.parametrize("prefix", ["", "/v1", "/east", "/east/v1"])
async def test_every_form_of_the_path_reaches_the_rpc_with_the_callers_key(shim: Shim, prefix: str) -> None:
    shim.service.watches = [[state()]]
    answer = await shim.client.get(f"{prefix}/batches/batch_1/events", headers={"authorization": "Bearer k"})
    assert answer.status_code == 200
    (request,) = shim.service.requests
    assert (request.batch_id, request.provider) == ("batch_1", "east" if "east" in prefix else "")
    assert shim.service.metadata["authorization"] == "Bearer k"


async def test_an_error_before_the_first_state_is_an_ordinary_answer(shim: Shim) -> None:
    shim.service.watches = [[Refusal(StatusCode.NOT_FOUND, "No batch found.", "NOT_FOUND")]]
    answer = await shim.client.get(PATH)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert answer.json()["error"]["message"] == "No batch found."


async def test_a_first_state_that_does_not_come_is_504() -> None:
    async with running_shim(deadline=0.2) as shim:
        shim.service.watches = [[asyncio.Event()]]
        assert (await shim.client.get(PATH)).status_code == 504
        await eventually(lambda: shim.service.ended == ["watch"])


async def test_a_call_that_fails_midway_is_an_event_with_the_envelope_and_when_to_connect_again(shim: Shim) -> None:
    shim.service.watches = [[state(), STOPPING]]
    source = EventSource(shim.client, PATH)
    batch, error = [event async for event in source.connect()]
    assert (batch.name, error.name) == ("batch", "error")
    expected = {"message": "It stops.", "type": "server_error", "param": None, "code": None}
    assert error.json() == {"error": expected}
    assert error.last_id == batch.last_id
    assert source.retry_ms == 2000


async def test_a_browser_connects_again_after_errors_and_stops_after_the_end(shim: Shim) -> None:
    shim.service.watches = [[state(n="1"), STOPPING], [state(n="1"), state(n="2"), STOPPING], [state(n="3")]]
    source = EventSource(shim.client, PATH)
    seen = []
    while not source.closed:
        seen += [event async for event in source.connect()]
    assert [event.name for event in seen] == ["batch", "error", "batch", "batch", "error", "batch", "end"]
    assert [event.json()["metadata"]["n"] for event in seen if event.name == "batch"] == ["1", "1", "2", "3"]
    assert len(shim.service.requests) == 3  # the last connection was answered 204, without a call


async def test_after_the_end_there_is_nothing_more(shim: Shim) -> None:
    answer = await shim.client.get(PATH, headers={"last-event-id": "end"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert shim.service.requests == []


async def test_a_silent_watch_is_kept_alive_by_comments() -> None:
    async with running_shim(quiet=0.02) as shim, asyncio.timeout(10):
        held = asyncio.Event()
        shim.service.watches = [[state(n="1"), held, state(n="2")]]
        source = EventSource(shim.client, PATH)
        events = source.connect()
        assert (await anext(events)).json()["metadata"] == {"n": "1"}
        waiting = asyncio.ensure_future(anext(events))
        await eventually(lambda: source.comments >= 3)
        held.set()
        assert (await waiting).json()["metadata"] == {"n": "2"}
        assert [event.name async for event in events] == ["end"]


async def test_a_client_that_leaves_ends_the_watch(shim: Shim) -> None:
    shim.service.watches = [[state(), asyncio.Event()]]
    reader, writer = await shim.send_raw(f"GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await reader.readuntil(b"event: batch")
    assert shim.service.ended == []
    writer.close()
    await eventually(lambda: shim.service.ended == ["watch"])


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async with running_shim(idle=0.3) as shim:
        shim.service.watches = [repeat(state(large="x" * 1_000_000))]
        reader, writer = await shim.send_raw(f"GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await reader.readuntil(b"event: batch")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: shim.service.ended == ["watch"])
        writer.close()


@pytest.mark.parametrize("verb", ["HEAD", "POST"])
async def test_events_are_only_read(shim: Shim, verb: str) -> None:
    answer = await shim.client.request(verb, PATH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
