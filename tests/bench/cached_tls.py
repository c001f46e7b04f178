"""LiteLLM's command with each TLS context made once, and not anew for each client that it makes; not of our process."""

import ssl
from functools import cache
from importlib import import_module

ssl.create_default_context = cache(ssl.create_default_context)  # type: ignore[assignment]
import_module("litellm").run_server()
