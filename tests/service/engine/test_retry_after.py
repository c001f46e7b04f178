"""What lines do with an endpoint's Retry-After, in each of its forms."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from time import tzset
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from tests.fakes import FakeEndpoint, Going, completion, failure, fake_endpoint
from tests.harness import until
from tests.service.running import RESPONSES, runner

from batchyard.service.jsonl.results import Answer
from batchyard.service.upstream.transport import retry_after


async def _calls(fake: FakeEndpoint, content: str) -> int:
    return fake.calls[content]


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    tzset()
    yield
    monkeypatch.undo()
    tzset()


class TestRetryAfter:
    @pytest.mark.usefixtures("in_tokyo")
    @pytest.mark.parametrize(
        "form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"], ids=str
    )
    def test_that_is_a_date_is_in_utc_wherever_the_host_is(self, form: str) -> None:
        seconds = retry_after({"retry-after": (datetime.now(UTC) + timedelta(seconds=100)).strftime(form)})
        assert seconds is not None
        assert 90 < seconds <= 100

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after": "20"}, 20),
            ({"retry-after": "0.5"}, 0.5),
            ({"retry-after": "-3"}, 0),
            ({"retry-after-ms": "1500"}, 1.5),
            ({"retry-after-ms": "1500", "retry-after": "20"}, 1.5),
            ({"retry-after-ms": "soon", "retry-after": "20"}, 20),
            ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
            ({"retry-after": "soon"}, None),
            ({"retry-after": ""}, None),
            ({}, None),
        ],
    )
    def test_is_read_in_every_form(self, headers: dict[str, str], seconds: float | None) -> None:
        assert retry_after(httpx.Headers(headers)) == seconds

    def test_is_read_as_a_date(self) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
        seconds = retry_after(httpx.Headers({"retry-after": date}))
        assert seconds is not None
        assert 3000 < seconds <= 3600

    async def test_of_any_form_holds_every_line_back(self) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
        forms = [("retry-after", "600"), ("retry-after", "600.5"), ("retry-after", date), ("retry-after-ms", "600000")]

        async def calls(headers: dict[str, str]) -> int:
            async def refuse(body: dict[str, Any], before: int) -> Response:
                return failure(429, headers=headers)

            control = Going()
            async with fake_endpoint(refuse) as fake, runner(fake.api_base) as run:
                lines = [asyncio.create_task(run("first", control=control))]
                await until(partial(_calls, fake, "first"), bool)
                lines.append(asyncio.create_task(run("second", control=control)))
                await asyncio.wait(lines, timeout=3)
                control.stop()
                assert await asyncio.gather(*lines) == [None, None]
                return sum(fake.calls.values())

        assert await asyncio.gather(*(calls(dict([form])) for form in forms)) == [1] * len(forms)
        assert await calls({}) >= 3

    async def test_is_not_taken_from_the_time_of_lines_that_wait_for_it(self) -> None:
        async def refuse_once(body: dict[str, Any], before: int) -> Response:
            first = body["messages"][-1]["content"] == "first"
            return failure(429, headers={"retry-after": "1"}) if first and not before else completion(body)

        async with fake_endpoint(refuse_once) as fake, runner(fake.api_base) as run:
            first = asyncio.ensure_future(run("first"))
            await until(partial(_calls, fake, "first"), bool)
            second = await run("second", seconds=0.5)
            assert isinstance(second, Answer)
            assert second.status_code == 200
            await first

    @pytest.mark.parametrize("status", [408, 500, 502, 504])
    async def test_a_stateful_line_is_not_repeated_where_it_may_have_begun(self, status: int) -> None:
        async def refuse(body: dict[str, Any], before: int) -> Response:
            return failure(status)

        async with fake_endpoint(refuse) as fake, runner(fake.api_base) as run:
            await run(path=RESPONSES)
            assert sum(fake.calls.values()) == 1
