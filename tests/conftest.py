import os
from pathlib import Path

import pytest

# Whole servers and processes, and very many examples, the same on every Python.
ONCE = {"bad_input", "cli", "docs", "fuzz", "groups", "pool", "providers", "rest", "sdk", "transport", "upstream"}
SETTINGS = ("BATCHYARD_", "LITELLM_", "OPENAI_", "AZURE_")


def pytest_configure() -> None:
    """Takes the caller's own settings out of the environment: the tests behave the same whatever they are."""
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        if not name.startswith("BATCHYARD_TEST_"):
            del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks whole folders `once`, before the marks are asked for."""
    for item in items:
        if Path(item.path).relative_to(Path(__file__).parent).parts[0] in ONCE:
            item.add_marker(pytest.mark.once)
