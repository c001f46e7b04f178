"""How many tokens an answer says that it used: each number counts by itself, whatever stands beside it."""

import json
from typing import Any

import pytest

from batchyard.service.jsonl.results import NO_TOKENS, Tokens, tokens_of

ODD: list[Any] = [
    None,
    True,
    "3",
    "many",
    -1,
    3.5,
    float("nan"),
    float("inf"),
    1 << 32,
    1 << 63,
    int("9" * 400),
    [],
    {},
    [3],
]
CHAT = ("prompt_tokens", "completion_tokens")
RESPONSES = ("input_tokens", "output_tokens")


def usage_of(names: tuple[str, str]) -> dict[str, Any]:
    read, written = names
    return {
        read: 10,
        f"{read}_details": {"cached_tokens": 4},
        written: 7,
        f"{written}_details": {"reasoning_tokens": 2},
    }


@pytest.mark.parametrize("names", [CHAT, RESPONSES])
def test_both_forms_of_usage_are_read(names: tuple[str, str]) -> None:
    assert tokens_of(usage_of(names)) == Tokens(10, 4, 7, 2)
    assert tokens_of(usage_of(names) | {"total_tokens": None, "cost": "0.1", "service_tier": []}) == Tokens(10, 4, 7, 2)


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("names", [CHAT, RESPONSES])
def test_an_odd_number_leaves_the_others(names: tuple[str, str], odd: object) -> None:
    read, written = names
    usage = usage_of(names)
    assert tokens_of(usage | {read: odd}) == Tokens(0, 4, 7, 2)
    assert tokens_of(usage | {written: odd}) == Tokens(10, 4, 0, 2)
    assert tokens_of(usage | {f"{read}_details": {"cached_tokens": odd}}) == Tokens(10, 0, 7, 2)
    assert tokens_of(usage | {f"{written}_details": {"reasoning_tokens": odd}}) == Tokens(10, 4, 7, 0)
    assert tokens_of(usage | {f"{read}_details": odd, f"{written}_details": odd}) == Tokens(10, 0, 7, 0)


def test_a_whole_number_may_be_written_as_a_decimal() -> None:
    usage = json.loads(
        '{"prompt_tokens": 3.0, "completion_tokens": 2e1, "prompt_tokens_details": {"cached_tokens": 1.0}}'
    )
    assert tokens_of(usage) == Tokens(3, 1, 20, 0)


@pytest.mark.parametrize("names", [CHAT, RESPONSES])
def test_an_odd_number_in_one_form_leaves_that_of_the_other(names: tuple[str, str]) -> None:
    odd = {name: None for one in (CHAT, RESPONSES) if one != names for name in one}
    assert tokens_of(odd | usage_of(names)) == Tokens(10, 4, 7, 2)


@pytest.mark.parametrize("usage", ODD, ids=repr)
def test_what_is_no_usage_counts_nothing(usage: object) -> None:
    assert tokens_of(usage) == NO_TOKENS
