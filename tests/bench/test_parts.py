"""What the measurements stand on: each call is counted, each failure is seen, and nothing is moved short."""

from collections.abc import AsyncIterator

import pytest
from tests.bench import asking, provider
from tests.bench.files import Files
from tests.bench.load import load, request
from tests.bench.measure import APART, CONTROL, SERVE, Row, compared, units
from tests.bench.starting import installed_bytes
from tests.bench.table import own_tables
from tests.bench.upstream import Asked, each

SIZE = 3_000_000


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with provider.answering(SIZE) as port:
        yield port


async def test_a_load_is_of_calls_that_came(port: int) -> None:
    wire = asking.get(await asking.new_batch(port))
    done = await each(Asked(port, (), wire), port, 4, 0.05)
    assert 0 < done.calls == len(done.latencies)
    assert 0 < done.percentile_ms(50) <= done.percentile_ms(99)


async def test_calls_that_do_not_reach_the_provider_fail_the_measurement(port: int) -> None:
    with pytest.raises(AssertionError, match="only 0 went upstream"):
        await each(Asked(port, (), request("GET", "/v1/files/file-1")), port, 2, 0.01)


async def test_an_answer_that_is_no_200_fails_the_measurement(port: int) -> None:
    with pytest.raises(AssertionError, match="404"):
        await load(port, request("GET", "/v1/nothing"), 2, 0.01)


async def test_files_are_moved_whole(port: int) -> None:
    files = Files(port, b"x" * SIZE, {})
    assert await files.upload() > 0
    assert await files.download() > 0


async def test_a_file_that_comes_short_fails_the_measurement(port: int) -> None:
    files = Files(port, b"x" * SIZE, {})
    await files.upload()
    files.size += 1
    with pytest.raises(AssertionError, match="3000000 of 3000001 bytes"):
        await files.download()


async def test_the_table_has_medians_goals_and_ratios() -> None:
    taken = {CONTROL: [2.0, 4.0, 8.0], SERVE: [3000.0, 1000.0, 2000.0]}

    async def control() -> tuple[float]:
        return (taken[CONTROL].pop(0),)

    async def serve() -> tuple[float]:
        return (taken[SERVE].pop(0),)

    rows = await compared(3, units("gRPC get, from the registry", "calls/s"), {CONTROL: control, SERVE: serve})
    assert rows == [Row("gRPC get, from the registry", "calls/s", {CONTROL: (2, 4, 8), SERVE: (3000, 1000, 2000)})]
    line = own_tables(rows).splitlines()[-1]
    assert line == (
        "| gRPC get, from the registry, calls/s | 2,000 (1,000 to 3,000) | ≥ 1,500 | – |  | 4 (2 to 8) "
        "| 250 (250 to 1,500) | – |"
    )
    assert APART not in rows[0].values


def test_the_installed_size_is_of_what_it_needs() -> None:
    assert installed_bytes("shim") < installed_bytes("all")
