"""What a file may cost is bounded, and nothing in it becomes something else, or shows a secret, on the way."""

import re
from itertools import pairwise

import pytest
from tests.service.conftest import Load, Problems

from batchyard.cli import report
from batchyard.service.config.loader import load_settings

ECHO = "batchyard: {local: {echo: true}}\n"
LAUGHS = "".join(
    f"{name}: &{name} [{', '.join([f'*{below}' if below else 'x'] * 9)}]\n"
    for below, name in pairwise(["", *"abcdefghi"])
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}\n" for n in range(9))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, r"has more than 50000 values, with those of aliases \(config.yaml line \d+\)"),
        (MERGES, r"has more than 50000 values, with those of aliases \(config.yaml line \d+\)"),
        ("a: [" + "x," * 50_000 + "]", r"has more than 50000 values \(config.yaml line 1\)"),
        ("a:\n" * 2 + "- " * 3_000, r"is nested too deeply: more than 64 levels \(config.yaml line 3\)"),
        ("".join(" " * n + "a:\n" for n in range(1_000)), r"is nested too deeply.* \(config.yaml line 65\)"),
        ("a: '" + "x" * (1 << 20) + "'", "is larger than 1048576 bytes"),
        ("a: b\nc: \x00\n", r"holds a character that YAML doesn't allow \(config.yaml line 2\)"),
        ("a: \U0010ffff\ud83d".encode("utf-16-le", "surrogatepass").decode("latin-1"), "holds a character"),
    ],
    ids=["laughs", "merges", "values", "depth", "indentation", "bytes", "nul", "utf-16"],
)
def test_what_a_file_costs_is_bounded(problems: Problems, text: str, said: str) -> None:
    (problem,) = problems(text)
    assert re.search(said, problem)


@pytest.mark.parametrize(
    "number", ["9" * 400, "0x" + "f" * 90_000, "0b" + "1" * 90_000, "0" + "7" * 4_000, "1" + ":59" * 90_000, ".inf"]
)
def test_a_huge_number_is_refused_wherever_a_number_stands(problems: Problems, number: str) -> None:
    for key in ("port", "drain_seconds", "limits.max_file_bytes", "retention.sweep_seconds"):
        inside = number
        for name in reversed(key.split(".")):
            inside = f"{{{name}: {inside}}}"
        (problem, *_) = problems(f"batchyard: {inside}\n")
        assert re.match(rf"batchyard\.{key}: expected an? (integer|number) .*\(config.yaml line 1\)", problem)
        assert len(problem) < 200


def test_a_huge_number_of_a_variable_is_refused(problems: Problems) -> None:
    for digits in (19, 400, 5_000):
        (problem,) = problems(ECHO, {"BATCHYARD_LIMITS__MAX_FILE_BYTES": "9" * digits})
        assert problem.startswith("batchyard.limits.max_file_bytes: expected an integer of at least 1, got ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batchyard: {local: {echo: true}, port: 17:30}", "expected an integer from 0 to 65535, got '17:30'"),
        (
            "batchyard: {local: {echo: true}, port: 2024-01-01}",
            "expected an integer from 0 to 65535, got '2024-01-01'",
        ),
        ("batchyard: !!python/object/apply:os.system [x]", "has a YAML tag that isn't supported"),
        ("batchyard: {local: !!python/object:a.B {echo: true}}", "has a YAML tag that isn't supported"),
        ("batchyard: {local: {echo: true}, port: !!python/name:a.B }", "has a YAML tag that isn't supported"),
        ("batchyard: {local: !!set {echo}}", "has a YAML tag that isn't supported"),
        ("batchyard: &a {<<: *a, local: {echo: true}}", "an alias that contains itself"),
        ("x: &a\n- <<: [{<<: *a}]\nbatchyard: {local: {echo: true}}", "an alias that contains itself"),
        ('batchyard: {local: {echo: true}, socket: "\\ud800"}', "expected a path"),
        ('batchyard: {local: {echo: true}, data_dir: "\\ud800"}', "expected a path"),
        ("batchyard: {local: {echo: true}, log_level: sk-hunter2}", "got a text that may be a secret"),
        (
            "batchyard: {local: {echo: true}, default_provider: sk-hunter2}",
            "the one that is named is not configured",
        ),
        ("batchyard: {local: {echo: true}, api_key:hunter2}", "batchyard.?: unknown key"),
        ("batchyard: {local: {echo: true, api_key:sk-hunter2, api_key:sk-hunter2}}", "is written twice"),
    ],
)
def test_what_yaml_would_make_something_else_of_is_refused(problems: Problems, text: str, said: str) -> None:
    problem = problems(text)[0]
    assert said in problem
    assert "(config.yaml line " in problem


def test_a_key_that_may_hold_a_secret_is_named_by_its_place_alone(load: Load) -> None:
    (warning,) = load("litellm_settings: {api_kee:hunter2}\nkey:hunter2: x\n" + ECHO).warnings
    assert "keys that are not used: litellm_settings.?, ? " in warning


def test_a_key_with_a_digit_in_a_short_word_is_named(load: Load) -> None:
    (warning,) = load("litellm_settings: {s3_callback_params: {}, api_kee2: x}\n" + ECHO).warnings
    assert "keys that are not used: litellm_settings.s3_callback_params, litellm_settings.api_kee2 " in warning


def test_many_problems_are_cut_short(problems: Problems) -> None:
    found = problems("batchyard:\n" + "".join(f"  key{n}: 1\n" for n in range(500)))
    assert len(found) == 101
    assert re.fullmatch(r"the settings: 40\d more problems", found[-1])


def test_a_path_of_bytes_that_are_no_text_can_be_told() -> None:
    found = load_settings(None, {"BATCHYARD_LOCAL__ECHO": "true", "BATCHYARD_DATA_DIR": "/\udcff"})
    assert "batchyard.data_dir: /\\udcff\n" in report.settings(found)
