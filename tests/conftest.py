import os

SETTINGS = ("BATCHYARD_", "LITELLM_", "OPENAI_", "AZURE_")


def pytest_configure() -> None:
    """Takes the caller's own settings out of the environment: the tests behave the same whatever they are."""
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        if not name.startswith("BATCHYARD_TEST_"):
            del os.environ[name]
