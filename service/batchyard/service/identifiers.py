"""Ids of what we hold, in the shape of OpenAI's (facts 1.6 and 1.7)."""

import secrets
import string

_BASE62 = string.digits + string.ascii_letters


def new_file_id() -> str:
    return "file-" + "".join(secrets.choice(_BASE62) for _ in range(22))


def new_batch_id() -> str:
    return f"batch_{secrets.token_hex(16)}"
