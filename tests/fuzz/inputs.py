"""What the fuzz tests share: how many examples they take, pieces of any cut, and inputs that were good once."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TORTURE = 2000
_TOKENS = [
    b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"-", b"--",
    b"1e999", b"NaN", b"null", b"true", b"\\ud800", b"\\u0000", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"\xef\xbb\xbf",
]  # fmt: skip


def examples(usual: int) -> int:
    """How many examples a test takes: `usual` in CI, more where the profile `torture` is loaded."""
    return TORTURE if settings.get_current_profile_name() == "torture" else usual


def bounded(usual: int) -> settings:
    """The settings of a fuzz test of `usual` examples: the same in each run, but in `torture` by that run's seed.

    One server serves all examples of a test: what one leaves behind, the next one meets.
    """
    found = examples(usual)
    return settings(
        max_examples=found,
        derandomize=found == usual,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The data in pieces that begin at `cuts`, empty ones too; a cut behind the end is at the end."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size), max_size=8)


@st.composite
def mutated(draw: st.DrawFn, good: st.SearchStrategy[bytes], most: int = 4) -> bytes:
    """A good input with up to `most` spans replaced: by nothing, a byte or two, a telling token, another span of it."""
    data = draw(good)
    for _ in range(draw(st.integers(0, most))):
        start, end, other = (draw(st.integers(0, len(data))) for _ in range(3))
        end = draw(st.sampled_from([start, min(start + 1, len(data)), max(start, end)]))
        new = draw(st.sampled_from(_TOKENS) | st.binary(max_size=2) | st.just(data[other : other + 40]))
        data = data[:start] + new + data[end:]
    return data
