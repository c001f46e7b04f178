"""A configuration file with one model group over Azure fakes, for services that are processes of their own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.groups.scene import GROUP, MODEL
from tests.harness import KEY
from tests.upstream.azure import FakeAzure


def configure_group(
    folder: Path, fakes: Sequence[FakeAzure], info: Mapping[str, Any], limits: Mapping[str, int] | None = None
) -> None:
    """Writes `folder`'s configuration: the suites' key, and members that have `info` beside the page's `mode`."""
    entries = [
        {
            "model_name": GROUP,
            "litellm_params": {"model": f"azure/{MODEL}", "api_key": fake.key, "api_base": fake.api_base},
            "model_info": {"id": f"east-{number}", "mode": "batch", **info},
        }
        for number, fake in enumerate(fakes)
    ]
    own = {
        "log_format": "text",
        "limits": dict(limits or {}),
        "upstream": {"azure_poll_seconds": 0.1, "doubt_seconds": 2},
        "groups": {"backoff_seconds": 0.1, "max_backoff_seconds": 1},
    }
    whole = {
        "general_settings": {"master_key": KEY},
        "model_list": entries,
        "litellm_settings": {"enable_loadbalancing_on_batch_endpoints": True},
        "batchyard": own,
    }
    (folder / "config.yaml").write_text(json.dumps(whole))
