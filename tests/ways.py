"""The two ways from a shim to the service. A conftest that imports all of this has its tests run over both."""

from collections.abc import Iterator
from contextvars import ContextVar

import pytest

_FRONTS = {"door", "shim"}  # fixtures
_OPENERS = {"opened", "running_shim"}  # what modules import

_alone = ContextVar("_alone", default=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a shim runs twice: it calls the service within the process, as `serve` does, and over a channel."""
    if _FRONTS.intersection(metafunc.fixturenames) or _OPENERS.intersection(vars(metafunc.module)):
        metafunc.parametrize("shim_is", ["in_process", "alone"], indirect=True)


@pytest.fixture(autouse=True)
def shim_is(request: pytest.FixtureRequest) -> Iterator[str]:
    """The way of this test."""
    way = getattr(request, "param", "")
    token = _alone.set(way == "alone")
    yield way
    _alone.reset(token)


def alone() -> bool:
    """Whether a shim that is opened now calls over a channel."""
    return _alone.get()
