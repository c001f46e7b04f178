import logging
from collections.abc import AsyncIterator, Iterable
from importlib.metadata import version

import httpx
import pytest
from prometheus_client import Counter, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from tests.harness import plain_client
from tests.scrapes import Scrape, scrape

from batchyard.common.http.listeners import listening
from batchyard.common.http.middleware import RequestMiddleware
from batchyard.common.http.request_head import MAX_HEAD_BYTES
from batchyard.common.http.request_log import RequestLog
from batchyard.common.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    """Of a listener that shows the metrics, and whose own requests they count."""
    request_log = RequestLog(metrics)
    async with listening(
        RequestMiddleware(metrics.app, request_log), "127.0.0.1", 0, max_requests=8, request_log=request_log
    ) as listener:
        base = f"http://127.0.0.1:{listener.port}"
        async with plain_client(base_url=base, timeout=10) as client:
            yield client


async def working() -> Iterable[Metric]:
    return [GaugeMetricFamily("batchyard_kept_elsewhere", "For this test.", 7)]


async def failing() -> Iterable[Metric]:
    raise ConnectionError("not now")


class TestAScrape:
    async def test_has_the_process_and_its_version(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = Scrape(answer.text)
        assert found("batchyard_info", version=version("batchyard")) == 1
        assert found("process_resident_memory_bytes") > 0
        assert "python_info" in answer.text

    async def test_is_openmetrics_where_that_is_accepted(self, client: httpx.AsyncClient) -> None:
        accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"
        answer = await client.get("/metrics", headers={"accept": accept})
        assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        families = list(open_families(answer.text))  # type: ignore[no-untyped-call]
        assert "batchyard" in {family.name for family in families}
        assert answer.text.endswith("# EOF\n")

    async def test_does_not_date_its_series(self, metrics: Metrics, client: httpx.AsyncClient) -> None:
        Counter("batchyard_test", "For this test.", registry=metrics.registry).inc()
        for accept in ("text/plain", "application/openmetrics-text"):
            text = (await client.get("/metrics", headers={"accept": accept})).text
            assert "batchyard_test_total 1" in text
            assert "_created" not in text

    async def test_has_what_is_kept_elsewhere_while_it_is_there(self, metrics: Metrics) -> None:
        with metrics.asking(working):
            assert (await scrape(metrics))("batchyard_kept_elsewhere") == 7
        assert "batchyard_kept_elsewhere" not in (await scrape(metrics)).text

    async def test_goes_on_without_what_can_not_be_had(
        self, metrics: Metrics, caplog: pytest.LogCaptureFixture
    ) -> None:
        with metrics.asking(failing), metrics.asking(working):
            assert (await scrape(metrics))("batchyard_kept_elsewhere") == 7
        (line,) = caplog.records
        assert (line.levelno, line.message) == (logging.ERROR, "figures are missing from a scrape")


class TestTheListener:
    async def test_has_nothing_else(self, client: httpx.AsyncClient) -> None:
        for path in ("/", "/metrics/", "/v1/batches", "/health/liveliness"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")

    async def test_is_for_reading(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/metrics", content=b"x")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        head = await client.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")


class TestRequests:
    async def test_are_counted_by_route_method_and_status(self, client: httpx.AsyncClient) -> None:
        for _ in range(3):
            await client.get("/metrics")
        await client.post("/nowhere", content=b"12345")
        found = Scrape((await client.get("/metrics")).text)
        name = "batchyard_rest_request_duration_seconds_count"
        assert found(name, route="/metrics", method="GET", status="200") == 3
        assert found(name, route="-", method="POST", status="404") == 1
        assert found("batchyard_rest_requests_running") == 1  # the scrape itself

    async def test_are_counted_where_the_server_refuses_them(self, client: httpx.AsyncClient) -> None:
        refusal = await client.get("/metrics", headers={"x-large": "x" * MAX_HEAD_BYTES})
        found = Scrape((await client.get("/metrics")).text)
        assert found("batchyard_rest_request_duration_seconds_count", route="-", method="GET", status="431") == 1
        assert found("batchyard_rest_sent_bytes_total", route="-") == len(refusal.content)

    async def test_of_unknown_methods_and_paths_share_their_labels(self, client: httpx.AsyncClient) -> None:
        for method in ("PROPFIND", "MKCOL", "LOCK"):
            await client.request(method, f"/{method}")
        found = Scrape((await client.get("/metrics")).text)
        assert found("batchyard_rest_request_duration_seconds_count", route="-", method="-", status="404") == 3
