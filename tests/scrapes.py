"""What Prometheus reads, for suites that ask it."""

from collections.abc import Mapping

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.harness import plain_client

from batchyard.common.metrics import PATH, Metrics


class Scrape:
    """One answer of /metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._families: list[Metric] = list(text_string_to_metric_families(text))
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self._families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """A sample's value; 0 where there is none."""
        return self._values.get((name, frozenset(labels.items())), 0)

    def series(self, name: str) -> int:
        """How many series a sample's name has."""
        return sum(1 for other, _ in self._values if other == name)

    def labels(self) -> Mapping[str, set[str]]:
        """The metrics of ours by the names that the page has, each with its labels."""
        return {
            family.name + ("_total" if family.type == "counter" else ""): {
                label for sample in family.samples for label in sample.labels if label != "le"
            }
            for family in self._families
            if family.name.startswith("batchyard_")
        }


async def scrape(metrics: Metrics) -> Scrape:
    """What a process with these metrics would answer."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(metrics.app), base_url="http://metrics") as client:
        return Scrape((await client.get(PATH)).text)


async def scraped(port: int) -> Scrape:
    """What the listener on a port of this machine answers."""
    async with plain_client(timeout=30) as client:
        answer = await client.get(f"http://127.0.0.1:{port}{PATH}")
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text)
