"""The set of strings in little memory."""

import tracemalloc
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.service.jsonl.digest_set import Digests

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 20).map(str)))


@settings(deadline=None)
@given(steps=STEPS)
def test_strings_come_and_go_as_in_a_dictionary(steps: list[tuple[bool, str]]) -> None:
    digests, places, expected = Digests(), count(), dict[str, int]()
    for adds, text in steps:
        if adds:
            assert digests.add(text) == (text not in expected)
            expected.setdefault(text, next(places) if text not in expected else 0)
        else:
            assert digests.take(text) == expected.pop(text, None)
    added = len(digests)
    assert [place for place in range(added) if digests.holds(place)] == sorted(expected.values())


def test_strings_stay_known_while_the_table_grows() -> None:
    digests = Digests()
    assert all(digests.add(f"request-{n}") for n in range(20_000))
    assert digests.take("request-7") == 7
    assert all(digests.add(f"later-{n}") for n in range(20_000))
    assert not any(digests.add(f"request-{n}") for n in range(20_000) if n != 7)
    assert (digests.take("request-7"), digests.take("later-19999"), len(digests)) == (None, 39_999, 40_000)


def test_a_string_takes_little_memory() -> None:
    tracemalloc.start()
    try:
        digests = Digests()
        for n in range(100_000):
            digests.add(str(n))
        assert tracemalloc.get_traced_memory()[0] < 24 * 100_000
    finally:
        tracemalloc.stop()
