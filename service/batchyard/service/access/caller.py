"""Who makes the current call, as the interceptor found it."""

from contextvars import ContextVar

import grpc

from batchyard.service.domain.keys import Caller

API_VERSION, KEY_SCHEME = "batchyard-api-version", "batchyard-key-scheme"
"""Metadata by which a shim says how a REST client spoke: its api-version, and that its key was in `api-key`."""


current_caller: ContextVar[Caller] = ContextVar("current_caller")


def metadata_value(details: grpc.HandlerCallDetails, key: str) -> str | None:
    """The last value of a metadata key, or None. White space around it is no part of it, as in HTTP's headers."""
    found = None
    for name, value in details.invocation_metadata or ():
        if name == key and isinstance(value, str):
            found = value
    return found.strip(" \t") if found else found
