"""One trace goes from a REST request through both processes to the calls that the batch's lines cost."""

from pathlib import Path
from time import monotonic
from typing import Any

import httpx
from starlette.responses import Response
from tests.collector import collecting
from tests.fakes import completion, fake_endpoint
from tests.harness import KEY, PATIENCE, chat_line, jsonl, plain_client, until
from tests.processes import batchyard, configure

TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
MANY = 100  # spans: more than the SDK sends at once, here
MOST_SECONDS = 10.0  # five for the spans, and what a slow machine takes to stop
SECRET_TEXT = "what nobody may read in a trace"


def traced(endpoint: str, **more: str) -> dict[str, str]:
    """Variables of a process that sends its spans there, soon."""
    return {
        "BATCHYARD_TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "32",
        **more,
    }


def calling(base: str) -> httpx.AsyncClient:
    return plain_client(base_url=base, headers=AUTHORIZED, timeout=PATIENCE)


async def answer(body: dict[str, Any], before: int) -> Response:
    return completion(body)


async def run_a_batch(client: httpx.AsyncClient, **headers: str) -> None:
    """Over REST, to its end; `headers` come with its creation."""
    form = {"file": ("a.jsonl", jsonl([chat_line("one", SECRET_TEXT)]))}
    file = (await client.post("/v1/files", files=form, data={"purpose": "batch"})).raise_for_status().json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await client.post("/v1/batches", json=asked, headers=headers)).raise_for_status().json()

    async def status() -> str:
        return str((await client.get(f"/v1/batches/{batch['id']}")).raise_for_status().json()["status"])

    await until(status, lambda seen: seen == "completed")


async def test_one_trace_reaches_from_rest_to_the_call_of_a_line(tmp_path: Path) -> None:
    async with collecting() as collector, fake_endpoint(answer) as fake:
        configure(tmp_path, api_base=fake.api_base)
        environ = traced(collector.endpoint)
        with batchyard(tmp_path, environ=environ) as service:
            target = f"127.0.0.1:{await service.port()}"
            with batchyard(tmp_path, "shim", "--service", target, environ=environ) as shim:
                base = f"http://127.0.0.1:{await shim.port('REST on')}"
                async with calling(base) as client:
                    await run_a_batch(client, traceparent=f"00-{TRACE}-{ABOVE}-01")

                async def names() -> set[str]:
                    return {span.name for _, span in collector.spans if span.trace_id.hex() == TRACE}

                rest, rpc, chunk, line = "POST /v1/batches", "CreateBatch", "run chunk", "POST /v1/chat/completions"
                await until(names, lambda seen: seen == {rest, rpc, chunk, line})
        above = ABOVE
        processes = []
        for name in (rest, rpc, chunk, line):
            process, span = collector.named(name)
            assert (name, span.parent_span_id.hex()) == (name, above)
            above = span.span_id.hex()
            processes.append(process)
        assert processes == ["batchyard-shim", *["batchyard-service"] * 3]
        (_, headers) = fake.requests[0]
        assert headers["traceparent"] == f"00-{TRACE}-{above}-01"
        told = str(collector.spans)
        assert "req_" in told
        for secret in (KEY, SECRET_TEXT, "default"):
            assert secret not in told


async def test_calls_of_their_own_are_traces_of_their_own(tmp_path: Path) -> None:
    async with collecting() as collector:
        configure(tmp_path, echo=True)
        environ = traced(collector.endpoint, OTEL_SERVICE_NAME="the-front-door")
        with batchyard(tmp_path, "serve", environ=environ) as served:
            base = f"http://127.0.0.1:{await served.port('REST on')}"
            async with calling(base) as client:
                await run_a_batch(client)
                await client.get("/v1/files/file-missing")

            async def missing() -> list[Any]:
                return [span for _, span in collector.spans if span.name == "GET /v1/files/{file_id}"]

            (span,) = await until(missing, bool)
        assert not span.parent_span_id
        assert {process for process, _ in collector.spans} == {"the-front-door"}
        assert len({bytes(span.trace_id) for _, span in collector.spans if span.name == "UploadFile"}) == 1
        created, uploaded = collector.named("CreateBatch")[1], collector.named("UploadFile")[1]
        assert created.trace_id != uploaded.trace_id


async def test_a_collector_that_is_away_holds_nothing_up(tmp_path: Path) -> None:
    async with fake_endpoint(answer) as fake:
        configure(tmp_path, api_base=fake.api_base)
        with batchyard(tmp_path, "serve", environ=traced("http://127.0.0.1:9")) as served:
            base = f"http://127.0.0.1:{await served.port('REST on')}"
            async with calling(base) as client:
                await run_a_batch(client)
        assert "traceparent" in fake.requests[0][1]


async def test_a_collector_that_is_away_holds_the_stop_up_for_some_seconds_at_most(tmp_path: Path) -> None:
    configure(tmp_path, echo=True)
    with batchyard(tmp_path, "serve", environ=traced("http://127.0.0.1:9", OTEL_BSP_SCHEDULE_DELAY="60000")) as served:
        async with calling(f"http://127.0.0.1:{await served.port('REST on')}") as client:
            for _ in range(MANY // 2):  # each with a span in either half
                (await client.get("/v1/batches")).raise_for_status()
        served.terminate()
        began = monotonic()
        assert await served.ended() == 0
        assert monotonic() - began < MOST_SECONDS
        assert "Traceback" not in served.log.read_text()


async def test_without_tracing_nothing_is_handed_on(tmp_path: Path) -> None:
    async with fake_endpoint(answer) as fake:
        configure(tmp_path, api_base=fake.api_base)
        with batchyard(tmp_path, "serve") as served:
            base = f"http://127.0.0.1:{await served.port('REST on')}"
            async with calling(base) as client:
                await run_a_batch(client, traceparent=f"00-{TRACE}-{ABOVE}-01")
        assert "traceparent" not in fake.requests[0][1]
