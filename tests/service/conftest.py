"""Settings from a text, and what is wrong with one; no secret of a test, which has `hunter2` in it, may ever show."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from batchyard.cli import report
from batchyard.service.config.loader import load_settings
from batchyard.service.config.settings import Deployment, Settings, SettingsError

Load = Callable[..., Settings]
Problems = Callable[..., list[str]]

LOCAL = "batchyard: {local: {echo: true}, default_provider: local}\n"
OPENAI = "https://api.openai.com/v1"
EAST, WEST = "https://east.openai.azure.com", "https://west.openai.azure.com"
LAST_DATED = "2025-04-01-preview"


def openai(name: str = "openai", **more: Any) -> Deployment:
    return Deployment(**{"name": name, "provider": "openai", "api_base": OPENAI} | more)


def azure(name: str = "azure", **more: Any) -> Deployment:
    known = {"name": name, "provider": "azure", "api_base": EAST, "api_version": LAST_DATED}
    return Deployment(**known | more)


def entry(**members: str) -> str:
    """A file with one entry of `files_settings`, and a provider beside it."""
    inside = ", ".join(f"{key}: {value!r}" for key, value in members.items())
    return f"files_settings: [{{{inside}}}]\n{LOCAL}"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Settings from a file's text, an environment and options."""

    def load(text: str, environ: Mapping[str, str] | None = None, **options: object) -> Settings:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        found = load_settings(path, environ or {}, options)
        assert "hunter2" not in repr(found) + report.settings(found)
        return found

    return load


@pytest.fixture
def problems(load: Load, tmp_path: Path) -> Problems:
    """What is wrong with them."""

    def problems(text: str, environ: Mapping[str, str] | None = None, **options: object) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            load(text, environ, **options)
        found = str(caught.value).replace(f"{tmp_path}/", "")
        assert "hunter2" not in found
        return found.splitlines()

    return problems
