"""A change that was begun is brought to its end, whatever becomes of its caller."""

import asyncio

import pytest
from tests.fakes import Gate

from batchyard.service.background import Mutations


class Change:
    """A change that waits at a gate, then is done, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.gate = Gate()
        self.begun = asyncio.Event()
        self.done = False
        self._failure = failure

    async def run(self) -> str:
        self.begun.set()
        await self.gate.passed()
        if self._failure:
            raise self._failure
        self.done = True
        return "changed"


async def cancelled_caller(mutations: Mutations, change: Change) -> None:
    """Asks for the change, and leaves while it is under way."""
    caller = asyncio.create_task(mutations.run(change.run()))
    await change.begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_caller_gets_what_its_change_returns_or_raises() -> None:
    mutations = Mutations()
    good, bad = Change(), Change(ZeroDivisionError())
    good.gate.open()
    bad.gate.open()
    assert await mutations.run(good.run()) == "changed"
    with pytest.raises(ZeroDivisionError):
        await mutations.run(bad.run())


async def test_the_change_of_a_cancelled_caller_ends_and_is_waited_for() -> None:
    mutations, change = Mutations(), Change()
    await cancelled_caller(mutations, change)
    drained = asyncio.create_task(mutations.drained())
    done, _ = await asyncio.wait({drained}, timeout=0.05)
    assert not done
    assert not change.done
    change.gate.open()
    await drained
    assert change.done


async def test_a_change_that_fails_after_its_caller_left_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    mutations, change = Mutations(), Change(ZeroDivisionError())
    await cancelled_caller(mutations, change)
    change.gate.open()
    await mutations.drained()
    assert not caplog.records


async def test_nothing_to_wait_for_is_fine() -> None:
    await Mutations().drained()
